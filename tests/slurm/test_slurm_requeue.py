"""A job that is stopped in every way there is, and started again, leaves what one leaves that never was."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_gen.attempts import read_attempts
from lightning_gen.metrics_file import last_step

ROOT = Path(__file__).resolve().parents[2]
STEPS = 600
FIT = [
    *("slurm/train.sbatch", "configs/experiment/toy_diffusion.yaml", "--trainer.accelerator=cpu"),
    *(f"--trainer.max_steps={STEPS}", "--trainer.val_check_interval=200", "--trainer.log_every_n_steps=10"),
    *("--data.init_args.num_train=1000", "--data.init_args.num_val=100", "--data.init_args.eval_batch_size=20"),
    *("--data.init_args.batch_size=64", "--data.init_args.micro_batch_size=16", "--checkpoints.every_n_steps=100"),
    "--model.init_args.network.init_args={width: 16, depth: 1, dropout: 0.2}",
    "--samples={every_n_steps: 300, num: 4}",
]
ON = {
    "two nodes": ["--nodes=2", "--ntasks-per-node=1"],
    "two ranks": ["--nodes=1", "--ntasks-per-node=2"],
    "one rank": ["--nodes=1", "--ntasks-per-node=1"],
}

CPUS = ["--gpus-per-node=0", "--cpus-per-gpu=1"]  # Slurm 22.05 asks for the template's 8 CPUs a GPU without any GPU too


def submitted(cluster, where: str, run: Path, *more: str) -> str:
    """The id of a training that was submitted by hand, into `run`."""
    options = [*ON[where], *CPUS, "--time=15", f"--output={run}.out", *more]
    endless = ["--trainer.max_steps=1000000"] if "--time=1" in more else []
    return cluster.submit(*options, *FIT, *endless, RUN_DIR=str(run))


def at(cluster, job: str, run: Path, step: int, restart: int) -> None:
    """Waits until a start of the job, the first or that after so many restarts, has come past a step."""
    cluster.until(lambda: len(read_attempts(run)) == restart + 1 and last_step(run / "metrics.csv") >= step)
    assert cluster.field(job, "JobState") == "RUNNING"


def ranks(run: Path) -> list[int]:
    """Process ids of the ranks that train in `run` on this machine."""
    found = subprocess.run(
        ["pgrep", "-f", f"lightning_gen fit.*--run {run}"], capture_output=True, text=True, check=False
    )
    pids = [int(pid) for pid in found.stdout.split()]
    return [pid for pid in pids if "python" in os.readlink(f"/proc/{pid}/exe")]


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory):
    """The same training on two ranks of this machine, which nobody stopped and Slurm knows nothing of."""
    run = tmp_path_factory.mktemp("whole") / "run"
    command = [
        sys.executable,
        "-m",
        "lightning_gen",
        "fit",
        "--config",
        *FIT[1:],
        "--trainer.devices=2",
        "--run",
        str(run),
    ]
    made = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)
    assert made.returncode == 0, made.stderr
    return run


@pytest.fixture
def log(tmp_path):
    """What stands in a run's log, said where a test fails."""
    runs = []
    yield runs.append
    for run in runs:
        for file in sorted((run / "slurm").glob("*.log")):
            print(file.read_text()[-8000:])


def test_slurm_two_nodes_by_signal_requeue_and_a_node_down(whole_cluster, of_two_ranks, tmp_path, log, same_end):
    cluster, run = whole_cluster, tmp_path / "run"
    log(run)
    job = submitted(cluster, "two nodes", run)
    at(cluster, job, run, 80, 0)
    cluster.call("scancel", "--signal=USR1", job)
    at(cluster, job, run, 200, 1)
    cluster.call("scontrol", "requeue", job)
    at(cluster, job, run, 330, 2)
    cluster.call("scontrol", "update", "NodeName=node2", "State=DOWN", "Reason=test")
    cluster.until(lambda: cluster.field(job, "JobState") in ("PENDING", "REQUEUED"))
    cluster.call("scontrol", "update", "NodeName=node2", "State=RESUME", check=False)  # it may have come back by itself
    assert cluster.ended(job, 300) == "COMPLETED" and cluster.field(job, "Restarts") == "3"
    attempts = read_attempts(run)
    assert [row["restart"] for row in attempts] == ["0", "1", "2", "3"] and {row["ranks"] for row in attempts} == {"2"}
    begun = [int(row["from_step"]) for row in attempts]
    assert begun == sorted(set(begun)), "every start came further"
    same_end(run, of_two_ranks)
    text = next((run / "slurm").glob("*.log")).read_text()
    assert "stopped by SIGUSR1" in text and "job " + job in text


def test_slurm_kill_9_of_one_rank(cluster, of_two_ranks, tmp_path, log, same_end):
    """The other does not wait for it for ever; the job starts again from the last checkpoint."""
    run = tmp_path / "run"
    log(run)
    job = submitted(cluster, "two ranks", run)
    at(cluster, job, run, 150, 0)
    os.kill(ranks(run)[-1], signal.SIGKILL)
    assert cluster.ended(job, 300) == "COMPLETED" and cluster.field(job, "Restarts") == "1"
    begun = [int(row["from_step"]) for row in read_attempts(run)]
    assert begun[0] == 0 and begun[1] >= 100 and begun[1] % 100 == 0
    same_end(run, of_two_ranks)


FAILING = '''
import torch

from lightning_gen.errors import UserError
from lightning_gen.generative_module import GenerativeModule


class Failing(GenerativeModule):
    """Rank 1 raises in its third step, while rank 0 waits for its gradients."""

    def build(self):
        self.mean = torch.nn.Parameter(torch.zeros(2))

    def training_loss(self, x, y=None):
        if self.global_rank == 1 and self.trainer.global_step == 2:
            raise UserError("rank 1 has had enough")
        return {"loss": (x - self.mean).square().mean()}

    def sample(self, num, y=None, *, sampler=None, rng=None):
        return self.mean.expand(num, 2)
'''


def test_slurm_an_error_of_one_rank_ends_the_job_with_its_message(cluster, tmp_path, log):
    """Instead of a hang, and it is not tried again."""
    run = tmp_path / "run"
    log(run)
    (tmp_path / "failing.py").write_text(FAILING)
    (tmp_path / "failing.yaml").write_text("model: failing.Failing\ndata: datamodules.TwoMoons\n")
    options = [*ON["two ranks"], *CPUS, "--time=15", f"--output={run}.out"]
    train = ["slurm/train.sbatch", str(tmp_path / "failing.yaml"), "--trainer.accelerator=cpu"]
    job = cluster.submit(*options, *train, RUN_DIR=str(run), PYTHONPATH=str(tmp_path))
    assert cluster.ended(job, 120) == "FAILED"
    assert cluster.field(job, "ExitCode") == "2:0" and cluster.field(job, "Restarts") == "0"
    assert "rank 1 has had enough" in next((run / "slurm").glob("*.log")).read_text()


def test_slurm_a_job_leaves_in_time_without_a_signal(cluster, tmp_path, log):
    """Its limit is a minute, of which half of what is left when training begins is kept: Slurm is asked for it."""
    run = tmp_path / "run"
    log(run)
    unheard = ["--time=1", "--signal=CONT@1"]
    job = submitted(cluster, "one rank", run, *unheard, "--export=ALL,MAX_RESTARTS=0")
    assert cluster.ended(job, 120) == "FAILED" and cluster.field(job, "ExitCode") == "75:0"
    text = next((run / "slurm").glob("*.log")).read_text()
    assert "stopped by the time limit at step" in text and "MAX_RESTARTS" in text


def test_slurm_the_second_job_in_one_directory_is_refused(cluster, tmp_path, log):
    run = tmp_path / "run"
    log(run)
    job = submitted(cluster, "one rank", run)
    at(cluster, job, run, 10, 0)
    second = submitted(cluster, "one rank", run)
    assert cluster.ended(second, 120) == "FAILED" and cluster.field(second, "ExitCode") == "2:0"
    assert f"another process trains in {run} (job {job}" in next((run / "slurm").glob("*.log")).read_text()
    assert cluster.field(job, "JobState") in ("RUNNING", "COMPLETED")
