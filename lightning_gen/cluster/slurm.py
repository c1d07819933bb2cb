"""The Slurm job that this process belongs to, if it does: its id, its restarts, how long it may still run."""

from __future__ import annotations

import math
import os
import re
import socket
import subprocess
import threading
import time

from lightning_gen.errors import UserError

ASK_EVERY_S = 300.0
"""Seconds between questions about the time left, which an administrator may change."""

INTERACTIVE = ("bash", "interactive")
"""Names of jobs that Lightning takes for interactive ones, in which every task would train alone."""

RESTARTS = "LIGHTNING_GEN_RESTARTS"
"""Environment variable with the restarts of the jobs that this one succeeds, where requeueing is forbidden."""


def job_id() -> str | None:
    """The job as `scontrol` knows it, ARRAY_TASK for an element of an array; None outside of jobs."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    # SLURM_JOB_ID of one element is the id of the whole array
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def host() -> str:
    """This machine as Slurm names it, or as it names itself."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def restarts() -> int:
    """How often this job was started before, as itself or as the jobs it succeeds."""
    counts = (os.environ.get(name, "") for name in ("SLURM_RESTART_COUNT", RESTARTS))
    return sum(int(count) for count in counts if count.isdigit())


def check_started() -> None:
    """Refuses a process that counts on others which nobody has started.

    Raises:
        UserError: the job has several tasks, and this is its script and none of them.
    """
    tasks = os.environ.get("SLURM_NTASKS", "1")
    inside = "SLURM_STEP_ID" in os.environ or os.environ.get("SLURM_JOB_NAME") in INTERACTIVE
    if tasks.isdigit() and int(tasks) > 1 and not inside:
        raise UserError(f"this job has {tasks} tasks, of which only this one would start: begin the command with srun")


def seconds_left(job: str, patience: float = 10.0) -> float:
    """Until the job's time limit; infinity where it has none, or Slurm does not say within `patience` seconds."""
    command = ["squeue", "--noheader", "--jobs", job, "--format", "%L"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return math.inf
    return duration(said.strip())


def duration(text: str) -> float:
    """Seconds of Slurm's [days-][[hours:]minutes:]seconds; infinity for anything else, such as UNLIMITED."""
    match = re.fullmatch(r"(?:(\d+)-)?((?:\d+:){0,2}\d+)", text)
    if match is None:
        return math.inf
    clock = [int(part) for part in match[2].split(":")]
    seconds = sum(part * 60**place for place, part in enumerate(reversed(clock)))
    return float(int(match[1] or 0) * 86400 + seconds)


class TimeLeft:
    """How long the job may still run, asked for in a thread of its own: nobody waits for Slurm."""

    def __init__(self, job: str | None, every_s: float = ASK_EVERY_S) -> None:
        self._begin = time.monotonic()
        self._end = self._end_at_first = math.inf  # on the monotonic clock
        self._closed = threading.Event()
        if job is not None:
            threading.Thread(target=self._ask, args=(job, every_s), daemon=True).start()

    def _ask(self, job: str, every_s: float) -> None:
        while True:
            left = seconds_left(job)
            if math.isfinite(left):  # no answer is no news
                self._end = time.monotonic() + left
                self._end_at_first = self._end if math.isinf(self._end_at_first) else self._end_at_first
            if self._closed.wait(every_s):
                return

    def seconds(self) -> float:
        """As known now: infinity before the first answer, and where there is no limit."""
        return self._end - time.monotonic()

    def at_first(self) -> float:
        """Seconds that there were when this was made, likewise."""
        return self._end_at_first - self._begin

    def close(self) -> None:
        """Asks no more."""
        self._closed.set()
