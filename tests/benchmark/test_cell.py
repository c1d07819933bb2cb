"""A run as a worker process trains and measures it, and as this process does."""

import fcntl
import multiprocessing
import os

import pytest

from lightning_gen import cli, loading
from lightning_gen.benchmark.cell import Job, in_training, run_cell, run_job
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


def test_two_processes_do_not_train_one_run(job):
    """The second is refused before it touches what the first says of itself."""
    assert not in_training(job.run)
    job.run.mkdir()
    with open(job.run / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert in_training(job.run)
        with pytest.raises(UserError, match="another process trains in"):
            run_cell(job)
        assert [file.name for file in job.run.iterdir()] == ["lock"]
    assert not in_training(job.run)
