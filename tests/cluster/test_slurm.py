"""What Slurm says of a job, and what it does not."""

import math
import threading

import pytest

from lightning_gen.cluster import slurm
from lightning_gen.errors import UserError


@pytest.mark.parametrize(
    "text, seconds",
    [("5", 5), ("1:05", 65), ("2:00:03", 7203), ("3-00:00:01", 259201), ("1-02", 86402), ("0:00", 0)]
    + [(text, math.inf) for text in ("UNLIMITED", "INVALID", "NOT_SET", "", "1:2:3:4", "x")],
)
def test_a_duration_is_read_as_slurm_writes_it(text, seconds):
    assert slurm.duration(text) == seconds


def test_an_element_of_an_array_is_named_by_both_ids(monkeypatch):
    """SLURM_JOB_ID of one element is the id of the whole array."""
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert slurm.job_id() is None
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert slurm.job_id() == "12"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    assert slurm.job_id() == "12_0"


def test_restarts_are_those_of_the_job_and_of_those_it_succeeds(monkeypatch):
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    assert slurm.restarts() == 0
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.setenv(slurm.RESTARTS, "3")
    assert slurm.restarts() == 5


def test_without_slurm_there_is_no_limit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.seconds_left("12") == math.inf
    assert slurm.TimeLeft(None).seconds() == math.inf


def test_it_is_asked_again_and_no_answer_is_no_news(monkeypatch):
    answers, asked = iter([100.0, math.inf, 40.0]), threading.Event()

    def answer(job):
        left = next(answers, None)
        if left is None:
            asked.set()
            return math.inf
        return left

    monkeypatch.setattr(slurm, "seconds_left", answer)
    left = slurm.TimeLeft("12", every_s=0.001)
    assert asked.wait(10)
    left.close()
    assert 30 < left.seconds() <= 40 and 90 < left.at_first() <= 100.1


@pytest.mark.parametrize(
    "variables, refused",
    [
        ({}, False),
        ({"SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "4"}, True),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}, False),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "interactive"}, False),
    ],
)
def test_a_job_of_several_tasks_needs_srun(monkeypatch, variables, refused):
    """It would wait for the others for ever, and say nothing."""
    for name in ("SLURM_NTASKS", "SLURM_STEP_ID", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if refused:
        with pytest.raises(UserError, match="4 tasks.*srun"):
            slurm.check_started()
    else:
        slurm.check_started()
