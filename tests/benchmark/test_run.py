"""A whole benchmark at toy size: it trains, measures and ranks; it skips, resumes, and names what failed."""

import csv
import json
import math
from pathlib import Path

import pytest
import yaml

from lightning_gen.__main__ import main
from lightning_gen.benchmark.grid import Plan
from lightning_gen.benchmark.request import jobs_of
from lightning_gen.benchmark.table import collect
from lightning_gen.comparison.metrics import FD

ROOT = Path(__file__).resolve().parents[2]
PLAN = {
    "name": "tiny",
    "experiment": str(ROOT / "configs" / "experiment" / "digits_diffusion.yaml"),
    "overrides": {
        "trainer.max_steps": 6,
        "trainer.log_every_n_steps": 2,
        "trainer.val_check_interval": 3,
        "checkpoints.every_n_steps": 2,
        "data.init_args.batch_size": 16,
        "samples.every_n_steps": 0,
        "model.init_args.network.init_args.channels": 8,
        "model.init_args.network.init_args.attention": [],
        "model.init_args.sampler": {
            "class_path": "lightning_gen.diffusion.DiffusionSampler",
            "init_args": {"steps": 3},
        },
    },
    "axes": {
        "schedule": {
            "cosine": {"model.init_args.schedule": "Cosine"},
            "linear": {"model.init_args.schedule": "LinearBeta"},
        },
        "target": {"v": {"model.init_args.parameterization": "VPrediction"}},
    },
    "evaluation": {"num_samples": 100, "likelihood": {"draws": 1}},
    "baselines": {"gaussian": {"class_path": "lightning_gen.diffusion.oracles.GaussianOracle"}},
    "workers": 2,
}


def write(folder: Path, plan: dict) -> Path:
    (folder / "tiny.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    return folder / "tiny.yaml"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    config = write(folder, PLAN)
    assert main(["benchmark", "--config", str(config), "--out", str(folder / "out")]) == 0
    return config, folder / "out"


def rows(out, name="table"):
    with open(out / f"{name}.csv") as file:
        return list(csv.DictReader(file))


def test_it_makes_what_it_says(made):
    _, out = made
    tables, maps = ("table.csv", "runs.csv", "table.md"), ("heatmap_fd.png", "heatmap_bits_per_dim.png")
    for name in (*tables, *maps, "compare.png", "curves.png", "samples.png"):
        assert (out / name).stat().st_size > 100, name
    table = rows(out)
    assert list(table[0])[:6] == ["schedule", "target", "fd", "bits_per_dim", "images_per_s", "rank_low"]
    assert {row["schedule"] for row in table} == {"cosine", "linear", "floor", "ceiling", "gaussian"}
    trained = [float(row["fd"]) for row in table[:2]]
    assert trained == sorted(trained)
    by_name = {row["schedule"]: row for row in table}
    assert float(by_name["floor"]["fd"]) < float(by_name["gaussian"]["fd"]) < float(by_name["ceiling"]["fd"])
    for name in ("cosine", "linear"):
        assert float(by_name[name]["images_per_s"]) > 0 and by_name[name]["likelihood_kind"] == "elbo"
    assert "| rank | schedule | target | FD[digits] |" in (out / "table.md").read_text()
    assert [(run["run"], run["seed"]) for run in rows(out, "runs")] == [(f"{r['schedule']}-v", "0") for r in table[:2]]


def test_started_again_it_does_nothing_over(made, capsys):
    config, out = made
    stamps = {f: f.stat().st_mtime_ns for f in out.glob("cells/*/checkpoints/*")}
    assert main(["benchmark", "--config", str(config), "--out", str(out)]) == 0
    assert {f: f.stat().st_mtime_ns for f in out.glob("cells/*/checkpoints/*")} == stamps
    assert "2 of 2 runs are done already" in capsys.readouterr().out


def test_a_cut_cell_is_resumed_and_ends_the_same(made):
    """As a kill in the middle leaves it: a checkpoint at step 4, no result. The other cell is not touched."""
    config, out = made
    cell = out / "cells" / "cosine-v"
    before = json.loads((cell / "evaluation" / "benchmark.json").read_text())["metrics"]
    (cell / "checkpoints" / "step_00000006.ckpt").unlink()
    (cell / "evaluation" / "benchmark.json").unlink()
    other = out / "cells" / "linear-v" / "evaluation" / "benchmark.json"
    stamp = other.stat().st_mtime_ns
    assert main(["benchmark", "--config", str(config), "--out", str(out)]) == 0
    after = json.loads((cell / "evaluation" / "benchmark.json").read_text())["metrics"]
    assert after == pytest.approx(before)
    assert other.stat().st_mtime_ns == stamp


def test_a_run_by_itself_is_what_it_is_among_the_others(made, tmp_path, ungrouped):
    """In this process, as an element of a job array has it, and in a worker."""
    config, out = made
    alone = ["benchmark", "--config", str(config), "--out", str(tmp_path), "--place", "1"]
    assert main(alone) == 0
    for file in ("metrics.csv", "evaluation/benchmark.json"):
        texts = [(folder / "cells" / "linear-v" / file).read_text() for folder in (out, tmp_path)]
        here, there = map(numbers, texts)
        assert here == there and here
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["linear-v"] and not (
        tmp_path / "table.md"
    ).exists()


def numbers(text):
    """What was measured, but for times: of a metrics.csv or of an evaluation."""
    if text.startswith("{"):
        return json.loads(text)["metrics"]
    return [
        {k: v for k, v in row.items() if not k.startswith("throughput")} for row in csv.DictReader(text.splitlines())
    ]


def test_a_failed_cell_is_named_and_the_others_stand(made, tmp_path, capsys):
    broken = {
        **PLAN,
        "axes": {
            **PLAN["axes"],
            "schedule": {**PLAN["axes"]["schedule"], "bad": {"model.init_args.schedule": "Nothing"}},
        },
    }
    config = write(tmp_path, broken)
    assert main(["benchmark", "--config", str(config), "--out", str(made[1])]) == 2
    error = capsys.readouterr().err
    assert "1 of 3 runs failed (bad-v): model.init_args.schedule: there is no class 'Nothing'" in error
    assert f"the others stand in {made[1] / 'table.md'}. See " in error and error.count("\n") == 1
    assert {"cosine", "linear"} <= {row["schedule"] for row in rows(made[1])}
    assert "failed or are not done: bad-v." in (made[1] / "table.md").read_text()


def test_a_baseline_that_fails_leaves_the_table_of_the_others(made, tmp_path, capsys):
    config = write(tmp_path, {**PLAN, "floor": "nothing"})
    assert main(["benchmark", "--config", str(config), "--out", str(made[1])]) == 2
    error = capsys.readouterr().err
    assert (
        "the baselines failed: " in error and "nothing" in error and f"see {made[1] / 'baselines' / 'log.txt'}" in error
    )
    assert f"the runs stand in {made[1] / 'table.md'} without them" in error and error.count("\n") == 1
    assert {row["schedule"] for row in rows(made[1])} == {"cosine", "linear", "floor", "ceiling", "gaussian"}
    assert "The baselines failed: baselines/log.txt says why." in (made[1] / "table.md").read_text()


def test_what_evaluation_refuses_is_said_before_the_first_cell_trains(tmp_path, capsys):
    """64 samples for 64 features: no covariance."""
    axes = {"schedule": {"cosine": PLAN["axes"]["schedule"]["cosine"]}}
    few = {**PLAN, "axes": axes, "evaluation": {"num_samples": 64}, "baselines": {}}
    few["overrides"] = {**PLAN["overrides"], "trainer.max_steps": 2}
    out = tmp_path / "out"
    assert main(["benchmark", "--config", str(write(tmp_path, few)), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "64 features" in error and error.count("\n") == 1 and not out.exists()


def test_numbers_measured_differently_are_not_ranked(made, capsys):
    config, out = made
    plan = Plan.read(config)
    jobs = jobs_of(plan, out)
    file = jobs["cosine-v"].measurements()[0].file
    content = file.read_text()
    changed = json.loads(content)
    changed["settings"]["num_samples"] = 50
    del changed["sha256"]  # of a file that was not changed on purpose it would be refused
    file.write_text(json.dumps(changed))
    try:
        assert main(["benchmark", "--config", str(config), "--out", str(out)]) == 2
        assert "num_samples is 50 in cosine-v and 100 in linear-v" in capsys.readouterr().err
        assert "INCOMPARABLE" in (out / "table.md").read_text() and {row["rank_low"] for row in rows(out)} == {""}
    finally:
        file.write_text(content)
    assert math.isfinite(collect(plan, out, jobs).models[0].mean(FD))


def test_a_seed_can_be_added(made, capsys):
    """The runs of the first seed stay as they are; the table has means and what they were made of."""
    config, out = made
    stamps = {f: f.stat().st_mtime_ns for f in out.glob("cells/*/checkpoints/*")}
    more = ["--seeds", "2", "--baseline", "linear-v", "--rank_by", "kid"]
    assert main(["benchmark", "--config", str(config), "--out", str(out), *more]) == 0
    assert "2 of 4 runs are done already" in capsys.readouterr().out
    assert stamps.items() <= {f: f.stat().st_mtime_ns for f in out.glob("cells/*/checkpoints/*")}.items()
    assert {row["baseline"] for row in rows(out)[:2]} == {"linear-v"}
    assert [float(row["kid"]) for row in rows(out)[:2]] == sorted(float(row["kid"]) for row in rows(out)[:2])
    for row in rows(out)[:2]:
        runs = [run for run in rows(out, "runs") if run["schedule"] == row["schedule"]]
        assert [run["seed"] for run in runs] == ["0", "1"] and runs[0]["fd"] != runs[1]["fd"]
        assert float(row["fd"]) == pytest.approx(sum(float(run["fd"]) for run in runs) / 2)
        assert row["seeds"] == "2" and float(row["fd_sd"]) > 0
    [other] = [row for row in rows(out)[:2] if row["schedule"] != "linear"]
    assert float(other["fd_difference_high"]) > float(other["fd_difference"])


def test_its_runs_can_be_compared(made, tmp_path):
    """`compare` of the benchmark's directory finds the same seeds of the same models, with the same numbers."""
    _, out = made
    assert main(["compare", str(out), "--out", str(tmp_path)]) == 0
    here = {row["model"]: row["fd"] for row in rows(tmp_path)}
    there = {f"{row['schedule']}-{row['target']}".rstrip("-"): row["fd"] for row in rows(out)}
    assert here == there


def test_cells_of_another_config_are_named_before_anything_runs(made, tmp_path, capsys):
    _, out = made
    other = {**PLAN, "overrides": {**PLAN["overrides"], "data.init_args.batch_size": 8}}
    before = (out / "benchmark.yaml").read_text()
    assert main(["benchmark", "--config", str(write(tmp_path, other)), "--out", str(out)]) == 2
    assert "begun under another config" in capsys.readouterr().err
    assert (out / "benchmark.yaml").read_text() == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--seeds=-1"], "--seeds"),
        (["--baseline", "x"], "baseline 'x'"),
    ],
)
def test_bad_flags_are_named_before_anything_runs(tmp_path, capsys, flags, said):
    assert main(["benchmark", "--config", str(write(tmp_path, PLAN)), "--out", str(tmp_path / "out"), *flags]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()
