"""What a benchmark ends with, made at any time: the rows that are there, and the names of those that are not."""

import csv
import fcntl
import os
import shutil
from pathlib import Path

import pytest
import yaml

from lightning_gen.__main__ import main
from lightning_gen.benchmark import report

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
        assert benchmark("--place", "0") == 0 and benchmark("--place", "2") == 2
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


def test_what_was_submitted_and_is_nowhere_any_more_has_failed(grid, tmp_path, monkeypatch, capsys):
    """It was killed, or was not let begin, and could not say so; what waits, or is held, has not failed."""
    out, log = tmp_path / "out", tmp_path / "out" / "slurm" / "moons-1.log"
    shutil.copytree(grid.out / "cells", out / "cells")
    for folder in (tmp_path / "bin", out / "slurm"):
        folder.mkdir()
    (out / "slurm" / "jobs").write_text("7\n8\n")
    (tmp_path / "bin" / "squeue").write_text(f"#!/bin/sh\ncat {tmp_path / 'queue'}\n")
    (tmp_path / "bin" / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(report, "write_report", lambda request: report.Report(None))

    def named(queue):
        (tmp_path / "queue").write_text(queue)
        assert grid("--out", str(out), "--collect") == 2
        return capsys.readouterr().out.splitlines()

    assert named("8 N/A\n7 1\n9 2\n")[1:] == ["1 of 3 runs are not done: noise"]
    assert named("7 1\n7 2\n") == ["2 of 3 runs are not done: noise, wild"]  # it tries again
    assert named("9 1\n")[0] == f"noise FAILED: it has ended without a word; see {log}"
    said = "slurmstepd: error: *** JOB 7 CANCELLED DUE TO TIME LIMIT ***"
    log.write_text(
        f"before\n{said}\nsrun: error: n1: task 0: Exited with exit code 2\n[t] job 7_1: srun ended with 2\n\n"
    )
    assert named("")[0] == f"noise FAILED: {said}; see {log}" and len(named("")) == 2
    (out / "cells" / "noise").mkdir()
    with open(out / "cells" / "noise" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert named("")[1:] == ["1 of 3 runs are not done: noise"]
