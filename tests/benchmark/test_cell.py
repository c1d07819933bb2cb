"""A run as a worker process trains and measures it, and as this process does."""

import fcntl
import multiprocessing
import os
import time

import pytest

from lightning_gen import cli, loading, run_lock
from lightning_gen.attempts import PATIENCE
from lightning_gen.benchmark.cell import Job, run_cell, run_job
from lightning_gen.benchmark.evaluations import Evaluation
from lightning_gen.benchmark.surroundings import failed, reason
from lightning_gen.cluster import stop
from lightning_gen.errors import Interrupted, UserError


@pytest.fixture
def job(tmp_path, ungrouped):
    arguments = ["--config", str(tmp_path / "nowhere.yaml"), "--seed_everything=2"]
    return Job(tmp_path / "run", arguments, [Evaluation({}, {})], "recipe", threads=1, group="digits")


def in_worker(job):
    process = multiprocessing.get_context("fork").Process(target=run_job, args=(job,))
    process.start()
    process.join()
    return process.exitcode


def test_wandb_groups_a_benchmarks_runs(job, tmp_path, monkeypatch):
    def fit(verb, args):
        (tmp_path / "seen").write_text("\n".join([verb, *args, os.environ["WANDB_RUN_GROUP"]]))

    monkeypatch.setattr(cli, "run_verb", fit)
    assert in_worker(job) == 1 and "Error" in job.log.read_text()  # there is no checkpoint to measure
    said = (tmp_path / "seen").read_text().splitlines()
    assert said == ["fit", *job.fit, "--run", str(job.run), "digits"]
    assert (job.run / "training.job").read_text() == job.training() and not job.done()


def test_a_refusal_of_fit_is_told_in_one_line(job, tmp_path):
    line = f"there is no config file {tmp_path / 'nowhere.yaml'}"
    assert in_worker(job) == 1 and reason(job.log) == line
    (job.run / "failure.txt").unlink()
    with pytest.raises(UserError, match=line):
        run_cell(job)
    assert reason(job.log) == line


def test_signals_have_their_own_action_again_once_it_is_trained(job, monkeypatch):
    """They are remembered while it trains; a measurement that they cut keeps its parts."""
    events = []

    def measured(run):
        events.append("measured")
        raise UserError("enough")

    monkeypatch.setattr(cli, "run_verb", lambda verb, args: events.append("trained"))
    monkeypatch.setattr(stop, "restore", lambda: events.append("restored"))
    monkeypatch.setattr(loading, "read_checkpoint", measured)
    with pytest.raises(UserError, match="enough"):
        run_cell(job)
    assert events == ["trained", "restored", "measured"]


def test_a_training_that_is_told_to_stop_has_not_failed(job, monkeypatch):
    def fit(verb, args):
        raise Interrupted("stopped by SIGUSR1", 75)

    monkeypatch.setattr(cli, "run_verb", fit)
    with pytest.raises(Interrupted) as stopped:
        run_cell(job)
    assert stopped.value.status == 75 and not failed(job.log) and job.log.read_text().endswith("stopped by SIGUSR1\n")


@pytest.fixture
def other(job, monkeypatch):
    """The lock of the run, held by another who says so in its log."""
    job.run.mkdir()
    monkeypatch.setattr(run_lock, "_MOMENT_S", 0.0)
    with open(job.run / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def test_two_processes_do_not_train_one_run(job, other):
    """The second is refused before it touches what the first says of itself."""
    with pytest.raises(UserError, match="another process trains in"):
        run_cell(job)
    assert [file.name for file in job.run.iterdir()] == ["lock"]


def test_a_restarted_job_waits_for_what_is_left_of_itself_on_a_lost_node(job, other, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(time, "sleep", lambda seconds: other.close())
    with pytest.raises(UserError, match="there is no config file"):  # its turn has come
        run_cell(job)


def test_nobody_else_measures_what_is_measured(job, monkeypatch):
    """Here as in a worker."""

    def measured(run):
        raise UserError(f"locked {is_locked(job.run / 'lock')}")

    monkeypatch.setattr(cli, "run_verb", lambda verb, args: None)
    monkeypatch.setattr(loading, "read_checkpoint", measured)
    with pytest.raises(UserError, match="locked True"):
        run_cell(job)
    assert not is_locked(job.run / "lock") and in_worker(job) == 1 and reason(job.log) == "locked True"


def is_locked(file):
    with open(file) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_measurement_that_is_killed_again_and_again_is_given_up(job, monkeypatch):
    """Each restart that brings a part is good for more; training is counted by itself."""

    class Killed(BaseException):
        pass

    def killed(run):
        raise Killed

    def start(restart):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        run_cell(job)

    monkeypatch.setattr(cli, "run_verb", lambda verb, args: None)
    monkeypatch.setattr(loading, "read_checkpoint", killed)
    parts = job.run / "evaluation" / ".benchmark.parts"
    parts.mkdir(parents=True)
    for restart in range(PATIENCE + 1):
        with pytest.raises(Killed):
            start(restart)
    (parts / "samples-0.pt").touch()
    for restart in range(1, PATIENCE + 1):
        (parts / f"samples-1.{restart}.partial").touch()  # cut as it was written
        with pytest.raises(Killed):
            start(restart)
    with pytest.raises(UserError, match=f"restarted {PATIENCE} times as it was measured, and measured nothing more"):
        start(PATIENCE + 1)
    with pytest.raises(Killed):
        start(0)  # a person starts it again
