"""What a worker process sets up before it trains."""

import multiprocessing
import os

from lightning_gen import cli
from lightning_gen.benchmark.cell import Job, reason, run_job, worker
from lightning_gen.benchmark.evaluations import Evaluation
from lightning_gen.errors import UserError


def test_wandb_groups_a_benchmarks_runs(tmp_path, monkeypatch):
    def fit(verb, args):
        (tmp_path / "seen").write_text("\n".join([verb, *args, os.environ["WANDB_RUN_GROUP"]]))

    monkeypatch.setattr(cli, "run_verb", fit)
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    job = Job(
        tmp_path / "run",
        ["--config", "x.yaml", "--seed_everything=2"],
        [Evaluation({}, {})],
        "recipe",
        threads=1,
        group="digits",
    )
    job.run.mkdir()
    process = multiprocessing.get_context("fork").Process(target=run_job, args=(job,))
    process.start()
    process.join()
    said = (tmp_path / "seen").read_text().splitlines()
    assert said == ["fit", *job.fit, "--run", str(job.run), "digits"]
    assert process.exitcode == 1 and "Error" in (job.run / "log.txt").read_text()  # there is no checkpoint to measure
    assert (job.run / "training.job").read_text() == job.training() and not job.done()


def fail(log, error):
    with worker(log):
        if error is not None:
            raise error


def test_what_the_user_can_mend_is_told_to_the_parent_and_a_bug_is_not(tmp_path):
    log = tmp_path / "log.txt"
    for error, told, status in (
        (UserError("--num_samples 64 is too few"), "--num_samples 64 is too few", 1),
        (
            MemoryError(),
            "out of memory on this machine: lower batch_size under evaluation in the benchmark's config",
            1,
        ),
        (KeyError("a bug"), None, 1),
        (UserError("again"), "again", 1),
        (None, None, 0),
    ):
        process = multiprocessing.get_context("fork").Process(target=fail, args=(log, error))
        process.start()
        process.join()
        assert (process.exitcode, reason(log)) == (status, told)
    assert "KeyError: 'a bug'" in log.read_text()


def test_a_refusal_of_fit_is_told_in_one_line(tmp_path):
    job = Job(tmp_path / "run", ["--config", str(tmp_path / "nowhere.yaml")], [Evaluation({}, {})], "", 1, "g")
    process = multiprocessing.get_context("fork").Process(target=run_job, args=(job,))
    process.start()
    process.join()
    assert process.exitcode == 1 and reason(job.log) == f"there is no config file {tmp_path / 'nowhere.yaml'}"
