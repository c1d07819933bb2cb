"""The attempts at a run, one a start: RUN/attempts.csv."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path

from lightning_gen.cluster import slurm
from lightning_gen.errors import UserError
from lightning_gen.run_directory import write_csv

COLUMNS = ("time", "host", "job", "restart", "ranks", "from_step")

PATIENCE = 3
"""Restarts of a job that may begin at one and the same step, one after the other."""


def read_attempts(run: Path) -> list[dict[str, str]]:
    """The starts of a run, first to last; none where it has not begun."""
    try:
        with open(run / "attempts.csv", newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def begin_attempt(run: Path, step: int, ranks: int) -> None:
    """Writes down that the run begins, or goes on, at `step`.

    Raises:
        UserError: this job was restarted again and again and did not come to a further checkpoint.
    """
    before = read_attempts(run)
    job, restart = slurm.job_id() or "", slurm.restarts()
    stuck = [row for row in before[-PATIENCE:] if row["restart"] != "0" and row["from_step"] == str(step)]
    if restart and len(stuck) == PATIENCE:
        raise UserError(
            f"{run} was restarted {PATIENCE} times at step {step} and came to no further checkpoint: write them more often "
            f"(--checkpoints.every_n_steps), give the job more time, or remove {run / 'attempts.csv'} to try again"
        )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    row = (now, slurm.host(), job, restart, ranks, step)
    write_csv(run / "attempts.csv", COLUMNS, [*(tuple(old[c] for c in COLUMNS) for old in before), row])
