"""Which jobs of a benchmark have not ended, as Slurm says it."""

import os

import pytest

from lightning_gen.benchmark import queued
from lightning_gen.errors import UserError


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """squeue(body): a stand-in for the command."""

    def made(body):
        (tmp_path / "squeue").write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "squeue").chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return made


def test_those_that_wait_or_run_and_their_elements(squeue):
    squeue("printf '5 3\\n15 1\\n5 0\\n6 N/A\\n'")
    assert queued.unended(["4", "5", "6"]) == {"5": {0, 3}, "6": set()}


def test_a_slurm_that_does_not_answer_is_no_sign_that_jobs_have_ended(squeue):
    squeue("echo 'slurm_load_jobs error: Unable to contact' >&2; exit 1")
    assert queued.unended([]) == {}
    with pytest.raises(UserError, match="whether jobs 5, 6 have ended: .*Unable to contact"):
        queued.unended(["5", "6"])


def test_jobs_are_those_of_the_last_submission_each_once(tmp_path):
    assert queued.jobs(tmp_path) == []
    for jobs in ("12", "3443"):
        queued.forget(tmp_path)
        for job in jobs:
            queued.remember(tmp_path, job)
    assert queued.jobs(tmp_path) == ["3", "4"]
