"""The plan of a benchmark: all combinations, overrides in order, and clear refusals."""

import json
from pathlib import Path

import pytest
import yaml

from lightning_gen.benchmark.grid import Plan
from lightning_gen.benchmark.run import jobs_of
from lightning_gen.errors import UserError

GOOD = {
    "experiment": "experiment.yaml",
    "axes": {
        "schedule": {"a": {"model.x": 1, "model.y": {"class_path": "C"}}, "b": {"model.x": 2}},
        "target": {"p": {"model.z": "s"}, "q": {"model.x": 3}},
    },
    "overrides": {"trainer.max_steps": 5, "model.x": 0},
}


def plan_file(tmp_path: Path, **changes) -> Path:
    (tmp_path / "experiment.yaml").write_text("model: model.yaml\n")
    (tmp_path / "model.yaml").write_text("class_path: A\n")
    content = {k: v for k, v in {**GOOD, **changes}.items() if v is not None}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return tmp_path / "plan.yaml"


def test_cells_are_all_combinations(tmp_path):
    cells = Plan.read(plan_file(tmp_path)).cells()
    assert [cell.name for cell in cells] == ["a-p", "a-q", "b-p", "b-q"]
    assert cells[1].values == {"schedule": "a", "target": "q"}
    # the plan's overrides first, then the axes in order: the last one wins
    assert cells[0].overrides == {"trainer.max_steps": 5, "model.x": 1, "model.y": {"class_path": "C"}, "model.z": "s"}
    assert cells[3].overrides["model.x"] == 3
    assert "--model.z=s" in cells[0].arguments() and '--model.y={"class_path": "C"}' in cells[0].arguments()


def test_runs_are_all_cells_under_each_seed(tmp_path):
    runs = Plan.read(plan_file(tmp_path, seeds=[0, 2])).runs()
    assert [(run.name, run.seed) for run in runs[:5]] == [
        ("a-p", 0),
        ("a-q", 0),
        ("b-p", 0),
        ("b-q", 0),
        ("a-p-seed2", 2),
    ]
    assert len({run.name for run in runs}) == 8
    assert runs[4].arguments() == [*runs[0].cell.arguments(), "--seed_everything=2"]


def test_more_seeds_leave_the_runs_of_the_first_as_they_are(tmp_path):
    one, three = (Plan.read(plan_file(tmp_path, seeds=seeds)) for seeds in ([0], [0, 1, 2]))
    jobs, more = jobs_of(one, tmp_path), jobs_of(three, tmp_path)
    assert {name: more[name] for name in jobs} == jobs and len(more) == 3 * len(jobs)


@pytest.mark.parametrize(
    ("key", "across"),
    [
        ("model.init_args.sampler.init_args.steps", ["sampler"]),
        ("model.init_args.sampler", ["sampler"]),
        ("model.init_args.bound", ["estimator"]),
        ("ema.decays", ["weights"]),
        ("model", ["sampler", "estimator"]),
        ("model.init_args.samplers", []),
        ("model.init_args.schedule", []),
    ],
)
def test_what_the_axes_change_may_differ(tmp_path, key, across):
    plan = Plan.read(plan_file(tmp_path, axes={"axis": {"a": {key: 1}, "b": {}}}))
    assert plan.across() == across


def test_a_plan_names_baseline_and_metric(tmp_path):
    plan = Plan.read(plan_file(tmp_path, baseline="b-q", rank_by="elbo_nats"))
    assert (plan.baseline, plan.rank_by) == ("b-q", "elbo_nats")
    plan = Plan.read(plan_file(tmp_path))
    assert (plan.baseline, plan.rank_by) == (None, None)


def test_the_shipped_plans_can_be_read():
    folder = Path(__file__).resolve().parents[2] / "configs" / "benchmark"
    plans = {file.stem: Plan.read(file) for file in folder.glob("*.yaml")}
    assert plans["digits"].baseline == "linear_beta-noise"


def test_a_training_from_before_there_were_seeds_is_one_of_seed_0(tmp_path):
    """Its files say nothing of a seed; that of another seed, or of another config, is another."""
    jobs = jobs_of(Plan.read(plan_file(tmp_path, seeds=[0, 1])), tmp_path)
    for name, same in (("a-p", True), ("a-p-seed1", False), ("b-p", False)):
        job, old = jobs[name], jobs["a-p"]
        arguments = [argument for argument in old.fit[2:] if not argument.startswith("--seed_everything")]
        training = json.dumps([arguments, old.recipe], sort_keys=True)
        job.result.parent.mkdir(parents=True)
        (job.run / "training.job").write_text(training)
        job.result.write_text("{}")
        job.result.with_suffix(".job").write_text(json.dumps([training, old.protocol], sort_keys=True))
        assert job.begun_otherwise() != same and job.done() == same
        if same:
            job.result.with_suffix(".job").write_text(json.dumps([training, {"num_samples": 3}]))
            assert not job.done()
            job.result.with_suffix(".job").write_text("damaged")
            assert not job.done()


def test_the_name_is_the_files_by_default(tmp_path):
    assert Plan.read(plan_file(tmp_path)).name == "plan"


def test_recipe_changes_with_the_files_it_names(tmp_path):
    plan = Plan.read(plan_file(tmp_path))
    before = plan.recipe()
    (tmp_path / "model.yaml").write_text("class_path: B\n")
    assert plan.recipe() != before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"axis": {}}, "axis"),
        ({"axes": None}, "axes"),
        ({"experiment": "nowhere.yaml"}, "nowhere.yaml"),
        ({"workers": 0}, "worker"),
        ({"evaluation": {"num_sample": 5}}, "num_sample"),
        ({"evaluation": {"likelihood": {"draws": -1}}}, "draws"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [0, 0]}, "seeds"),
        ({"seeds": [-1]}, "seeds"),
        ({"seeds": [True]}, "seeds"),
        ({"seeds": 3}, "seeds"),
        ({"axes": {"schedule": ["a", "b"]}}, "schedule"),
        ({"axes": {"schedule": {"a/b": {}}}}, "a/b"),
        ({"overrides": {"seed_everything": 3}}, "seed_everything.*`seeds`"),
        ({"axes": {"seed": {"a": {"seed_everything": 3}, "b": {}}}}, "seed_everything.*`seeds`"),
        ({"baseline": "a-r"}, "baseline 'a-r' is no cell.*a-p, a-q"),
        ({"baseline": ["a-p"]}, "baseline"),
        ({"rank_by": "beauty"}, "rank_by beauty"),
    ],
)
def test_bad_plans_are_refused(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        Plan.read(plan_file(tmp_path, **changes))
