"""What a worker process sets up before it trains."""

import multiprocessing
import os

from lightning_gen import cli
from lightning_gen.benchmark.cell import Job, run_job
from lightning_gen.benchmark.evaluations import Evaluation


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
