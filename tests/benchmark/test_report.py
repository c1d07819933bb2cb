"""What a benchmark ends with, made at any time: the rows that are there, and the names of those that are not."""

import csv
import shutil
from pathlib import Path

import pytest
import yaml

from lightning_gen.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
PLAN = {
    "name": "moons",
    "experiment": str(ROOT / "configs" / "experiment" / "toy_diffusion.yaml"),
    "overrides": {
        "trainer.max_steps": 4,
        "trainer.log_every_n_steps": 2,
        "checkpoints.every_n_steps": 2,
        "samples.every_n_steps": 0,
        "data.init_args.batch_size": 32,
        "model.init_args.network.init_args.width": 8,
    },
    "axes": {
        "target": {
            "v": {"model.init_args.parameterization": "VPrediction"},
            "noise": {"model.init_args.parameterization": "NoisePrediction"},
            "wild": {"model.init_args.optimizer.init_args.lr": 1e30},
        }
    },
    "evaluation": {"num_samples": 50, "sampler.steps": 2, "likelihood": {"draws": 0}},
}


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """grid(*flags): the status of `benchmark` with these, always in the same directory, where one run is done and one
    failed."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "moons.yaml").write_text(yaml.safe_dump(PLAN, sort_keys=False))

    def benchmark(*flags: str) -> int:
        return main(["benchmark", "--config", str(folder / "moons.yaml"), "--out", str(folder / "out"), *flags])

    benchmark.out = folder / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_RUN_GROUP", "moons")
        assert benchmark("--cell", "0") == 0 and benchmark("--cell", "2") == 2
    return benchmark


def rows(out):
    with open(out / "table.csv") as file:
        return [row["target"] for row in csv.DictReader(file)]


def test_what_is_done_stands_and_what_is_not_is_named(grid, capsys):
    assert grid("--collect") == 2
    said, log = capsys.readouterr(), grid.out / "cells" / "wild" / "log.txt"
    assert "wild FAILED: the loss is NaN or infinite at step 2; " in said.out and f"see {log}\n" in said.out
    assert "1 of 3 runs are not done: noise\n" in said.out
    assert "1 of 3 runs failed (wild): the loss is NaN or infinite" in said.err and said.err.count("\n") == 1
    assert rows(grid.out) == ["v", "floor", "ceiling"]
    assert "failed or are not done: noise, wild." in (grid.out / "table.md").read_text()


def test_with_nothing_done_there_is_nothing_to_collect(grid, tmp_path, capsys):
    assert grid("--out", str(tmp_path / "other"), "--collect") == 2
    said = capsys.readouterr()
    assert "3 of 3 runs are not done: v, noise, wild" in said.out and "there is nothing to collect" in said.err
    assert not (tmp_path / "other").exists()


def test_a_run_that_is_done_is_left_alone(grid, capsys):
    files = {file: file.stat().st_mtime_ns for file in grid.out.glob("cells/v/**/*")}
    assert grid("--cell", "v") == 0
    assert capsys.readouterr().out.splitlines() == ["v is done already", str(grid.out / "cells" / "v")]
    assert files and {file: file.stat().st_mtime_ns for file in grid.out.glob("cells/v/**/*")} == files


def test_a_table_that_was_made_too_early_is_made_again_by_the_last_run(grid, tmp_path, ungrouped):
    """A job that succeeds another is none that the collecting job waits for. Nothing is missing then, so that is no failure."""
    two = {name: values for name, values in PLAN["axes"]["target"].items() if name != "wild"}
    config, out = tmp_path / "two.yaml", tmp_path / "out"
    config.write_text(yaml.safe_dump({**PLAN, "axes": {"target": two}}, sort_keys=False))
    shutil.copytree(grid.out / "cells" / "v", out / "cells" / "v")
    command = ["benchmark", "--config", str(config), "--out", str(out)]
    assert main([*command, "--collect"]) == 0 and rows(out) == ["v", "floor", "ceiling"]
    assert main([*command, "--cell", "noise"]) == 0 and set(rows(out)) == {"v", "noise", "floor", "ceiling"}
