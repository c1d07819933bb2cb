"""The plan of a benchmark: all combinations, overrides in order, and clear refusals."""

import json
from pathlib import Path

import pytest
import yaml

from lightning_gen.benchmark.grid import Plan
from lightning_gen.benchmark.request import jobs_of
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


EVALUATIONS = {
    "solver": {"ddim": {"sampler.solver": "DDIM"}, "heun": {"sampler": {"solver": "Heun"}}},
    "nfe": {5: {"nfe": 5}, 10: {"nfe": 10}},
}


def test_every_cell_is_trained_once_and_measured_in_every_way(tmp_path):
    """The cells, their directories and what their trainings depend on are those of the plan without evaluation axes."""
    without, plan = (Plan.read(plan_file(tmp_path, evaluation_axes=each)) for each in (None, EVALUATIONS))
    assert plan.cells() == without.cells()
    names = [entry.name for entry in plan.entries()]
    assert names[:5] == ["a-p-ddim-5", "a-p-ddim-10", "a-p-heun-5", "a-p-heun-10", "a-q-ddim-5"] and len(names) == 16
    assert plan.entries()[2].labels == {"schedule": "a", "target": "p", "solver": "heun", "nfe": "5"}
    assert [e.protocol.nfe for e in plan.evaluations()] == [5, 10, 5, 10]
    assert [e.protocol.sampler["solver"] for e in plan.evaluations()] == ["DDIM", "DDIM", "Heun", "Heun"]
    jobs, more = jobs_of(without, tmp_path), jobs_of(plan, tmp_path)
    assert {name: job.training() for name, job in more.items()} == {name: job.training() for name, job in jobs.items()}
    files = [measurement.name for measurement in more["a-p"].measurements()]
    assert files == ["benchmark-ddim-5", "benchmark-ddim-10", "benchmark-heun-5", "benchmark-heun-10"]
    assert Plan.read(plan_file(tmp_path, evaluation_axes=EVALUATIONS, baseline="b-q-heun-5")).baseline == "b-q-heun-5"


def test_evaluation_axes_alone_are_of_one_training(tmp_path):
    plan = Plan.read(plan_file(tmp_path, axes=None, evaluation_axes=EVALUATIONS, seeds=[0, 1]))
    assert [run.name for run in plan.runs()] == ["experiment", "experiment-seed1"]
    assert [entry.name for entry in plan.entries()] == ["ddim-5", "ddim-10", "heun-5", "heun-10"]
    assert plan.entries()[0].labels == {"model": "experiment", "solver": "ddim", "nfe": "5"}


@pytest.mark.parametrize(
    ("changes", "across"),
    [
        ({"sampler.solver": "Heun"}, ["sampler"]),
        ({"sampler": {"guidance": {"scale": 2.0}}}, ["sampler"]),
        ({"nfe": 5}, ["sampler"]),
        ({"likelihood": {"estimator": {"steps": 5}}}, ["estimator"]),
        ({"weights": "raw", "nfe": 5}, ["sampler", "weights"]),
        ({}, []),
    ],
)
def test_what_the_evaluation_axes_change_may_differ(tmp_path, changes, across):
    assert Plan.read(plan_file(tmp_path, evaluation_axes={"axis": {"a": changes}})).across() == across


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
        [measurement] = job.measurements()
        measurement.folder.mkdir(parents=True)
        (job.run / "training.job").write_text(training)
        measurement.file.write_text("{}")
        said, fields = measurement.file.with_suffix(".job"), measurement.evaluation.fields
        said.write_text(json.dumps([training, fields], sort_keys=True))
        assert job.begun_otherwise() != same and job.done() == same
        if same:
            said.write_text(json.dumps([training, {"num_samples": 3}]))
            assert not job.done()
            said.write_text("damaged")
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
        ({"baseline": "a-r"}, "baseline 'a-r' is no row.*a-p, a-q"),
        ({"baseline": ["a-p"]}, "baseline"),
        ({"rank_by": "beauty"}, "rank_by beauty"),
        ({"columns": ["fd", "beauty"]}, "columns.*precision.*beauty"),
        ({"columns": "fd"}, "columns"),
        ({"axes": ["a"]}, "axes.*must map"),
        ({"axes": {"a": {1: {}, "1": {}}}}, "'a' names a value twice"),
        ({"evaluation": 3}, "evaluation of a benchmark must map"),
        ({"evaluation": {"num_samples": "many"}}, "num_samples"),
        ({"evaluation_axes": 3}, "evaluation_axes"),
        ({"evaluation_axes": {"schedule": {"a": {"sampler.steps": 3}}}}, "'schedule' has the name of another column"),
        ({"evaluation_axes": {"model": {"a": {"sampler.steps": 3}}}}, "'model' has the name of another column"),
        ({"evaluation_axes": {"nfe": {"5": 5}}}, "'nfe' must map each.*fields"),
        ({"evaluation_axes": {"nfe": {"5/1": {"nfe": 5}}}}, "5/1"),
        ({"evaluation_axes": {"nfe": {"5": {"nfes": 5}}}}, "evaluation 5: .*'nfes', did you mean nfe?"),
        ({"evaluation_axes": {"nfe": {"5": {"nfe": "few"}}}}, "evaluation 5: .*'few' for its nfe"),
        ({"evaluation_axes": {"nfe": {"5": {"nfe": 0}}}}, "nfe must be at least 1"),
        ({"evaluation_axes": {"n": {"5": {"num_samples": 5}}}}, "axis 'n' sets num_samples.*sampler, nfe"),
        ({"evaluation_axes": {"n": {"5": {"likelihood": {"draws": 5}}}}}, "axis 'n' sets likelihood.draws"),
        ({"evaluation_axes": {"w": {"5": {"weights": 5}}}}, "weights are.*5"),
        ({"evaluation_axes": {"g": {"t": {"nfe": 5}, "t_logsnr": {"nfe": 6}}}}, "share a file"),
    ],
)
def test_bad_plans_are_refused(tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        Plan.read(plan_file(tmp_path, **changes))
