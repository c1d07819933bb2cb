"""Launched jobs on a real Slurm: accepted, trained on two nodes, evaluated to the numbers of one process."""

import json
import sys

import pytest

LAUNCH = [sys.executable, "-m", "lightning_gen", "launch"]
CPU = ["--cluster", "configs/cluster/cpu.yaml", "--nodes", "2"]


def launched(cluster, *args):
    """The id of the one job that a launch submits."""
    said = cluster.call(*LAUNCH, *args)
    job = said.partition("job ")[2].partition(":")[0]
    cluster.jobs.append(job)
    assert f"squeue --jobs {job}" in said
    return job


@pytest.mark.parametrize("what", ["experiment/toy_diffusion.yaml", "benchmark/digits.yaml"])
def test_slurm_would_take_what_is_launched(cluster, what, tmp_path):
    args = [f"configs/{what}", "--cluster", "configs/cluster/cpu.yaml", "--run", str(tmp_path / "run"), "--check"]
    made = cluster.call(*LAUNCH, *args)
    assert "to start at" in made and not (tmp_path / "run").exists()


def test_two_nodes_train_and_judge_as_one(cluster, tmp_path):
    run = tmp_path / "run"
    short = ["--trainer.max_steps=6", "--checkpoints.every_n_steps=3", "--samples.every_n_steps=0"]
    job = launched(cluster, "configs/experiment/toy_diffusion.yaml", *CPU, "--run", str(run), *short)
    assert cluster.ended(job) == "COMPLETED"
    log = (run / "slurm" / "toy_diffusion.log").read_text()
    assert "on node[1-2]" in log and "--trainer.num_nodes 2 --trainer.devices 1" in log and "srun ended with 0" in log
    assert (run / "checkpoints" / "step_00000006.ckpt").exists()

    quick = ["--num_samples=0", "--likelihood.draws=1", "--device=cpu"]
    job = launched(cluster, str(run), *CPU, *quick, "--name=two")
    cluster.call(sys.executable, "-m", "lightning_gen", "evaluate", str(run), *quick, "--name=one")
    assert cluster.ended(job) == "COMPLETED", (run / "slurm" / "evaluate.log").read_text()
    two, one = (json.loads((run / "evaluation" / f"{name}.json").read_text())["metrics"] for name in ("two", "one"))
    assert two == pytest.approx(one, rel=1e-12)
