"""A benchmark as an array of jobs: one run is told to stop and recovers, one fails, and the table is made of the others."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
STEPS, EVERY = 400, 50
PLAN = {
    "name": "moons",
    "experiment": str(ROOT / "configs" / "experiment" / "toy_diffusion.yaml"),
    "overrides": {
        "trainer.max_steps": STEPS,
        "trainer.log_every_n_steps": EVERY,
        "checkpoints.every_n_steps": 10,
        "samples.every_n_steps": 0,
        "data.init_args.batch_size": 64,
    },
    "axes": {
        "target": {
            "v": {"model.init_args.parameterization": "VPrediction"},
            "wild": {"model.init_args.optimizer.init_args.lr": 1e30},
            "noise": {"model.init_args.parameterization": "NoisePrediction", "trainer.max_steps": 20},
        }
    },
    "evaluation": {"num_samples": 100, "sampler.steps": 4, "likelihood": {"draws": 0}},
}


def rows(file):
    with open(file) as stream:
        return list(csv.DictReader(stream))


def own(cluster):
    """The jobs in the queue that are of this test, as "ID NAME"."""
    lines = cluster.call("squeue", "-h", "--me", "-o", "%F %j").splitlines()
    return [line for line in lines if line.partition(" ")[2].startswith("moons")]


def test_a_run_recovers_one_fails_and_the_table_has_the_others(cluster, tmp_path):
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN, sort_keys=False))
    (tmp_path / "site.yaml").write_text("{gpus_per_node: 0, cpus_per_task: 1, time: '0:20:00', signal: USR1@300}\n")
    out = tmp_path / "out"
    asked = [sys.executable, "-m", "lightning_gen", "benchmark", "--config", str(tmp_path / "plan.yaml")]
    asked += ["--out", str(out), "--launcher", "slurm", "--cluster", str(tmp_path / "site.yaml")]
    said = cluster.call(*asked)
    [array, table] = re.search(r"squeue --jobs (\d+),(\d+)", said).groups()
    cluster.jobs += [array, table]
    assert "3 of 3 runs" in said

    cell = out / "cells" / "v"
    cluster.until(lambda: list(cell.glob("checkpoints/*.ckpt")))
    cluster.call("scancel", "--signal=USR1", f"{array}_0")
    assert cluster.field(table, "Dependency").startswith(f"afterany:{array}")
    twice = subprocess.run(asked, capture_output=True, text=True, check=False, cwd=ROOT, env=cluster.environment)
    assert twice.returncode == 2 and not twice.stdout, twice.stdout
    assert f"jobs for {out} have not ended ({array}, {table})" in twice.stderr and twice.stderr.count("\n") == 1
    assert set(own(cluster)) == {f"{array} moons", f"{table} moons-table"}

    state = cluster.ended(table)
    log = (out / "slurm" / "moons-table.log").read_text()
    first = (out / "slurm" / "moons-0.log").read_text()
    assert cluster.field(f"{array}_0", "Restarts") == "1" and "goes on from step" in first, first
    logged = [int(row["step"]) for row in rows(cell / "metrics.csv") if row["train/loss"]]
    assert logged == [*range(EVERY, STEPS + 1, EVERY)]
    assert {row["target"] for row in rows(out / "table.csv")} == {"v", "noise", "floor", "ceiling"}
    assert "wild FAILED: the loss is NaN or infinite" in log and "runs are not done" not in log
    assert cluster.field(table, "ExitCode") == "2:0" and state == "FAILED"
