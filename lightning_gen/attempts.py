"""The attempts at a run, one a start: RUN/attempts.csv of its training, RUN/measuring.csv of what measures it then."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from lightning_gen.cluster import slurm
from lightning_gen.errors import UserError
from lightning_gen.run_directory import write_csv

PATIENCE = 5
"""Restarts of a job that may begin at one and the same point, one after the other."""


def read_attempts(run: Path) -> list[dict[str, str]]:
    """The starts of a run, first to last; none where it has not begun."""
    return _read(run / "attempts.csv")


def begin_attempt(run: Path, step: int, ranks: int) -> None:
    """Writes down that the run begins, or goes on, at `step`.

    Raises:
        UserError: this job was restarted again and again and did not come to a further checkpoint.
    """
    file = run / "attempts.csv"
    if _is_stuck(file, "from_step", str(step)):
        raise UserError(
            f"{run} was restarted {PATIENCE} times at step {step} and came to no further checkpoint: write them more often "
            f"(--checkpoints.every_n_steps), give the job more time, or remove {file} to try again"
        )
    _add(file, {"ranks": ranks, "from_step": step})


def begin_measuring(run: Path) -> None:
    """Writes down that a trained run begins, or goes on, to be measured.

    Raises:
        UserError: this job was restarted again and again, and nothing new came to RUN/evaluation.
    """
    file, there = run / "measuring.csv", _measured(run / "evaluation")
    if _is_stuck(file, "measured", there):
        raise UserError(
            f"{run} was restarted {PATIENCE} times as it was measured, and measured nothing more: give the job more memory "
            f"(mem) or more time, or remove {file} to try again"
        )
    _add(file, {"measured": there})


def _measured(folder: Path) -> str:
    """Digest of the names of what is measured, of parts too; not of what was cut as it was written."""
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))
    names = [name for name in names if ".partial" not in name]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _read(file: Path) -> list[dict[str, str]]:
    try:
        with open(file, newline="") as stream:
            return list(csv.DictReader(stream))
    except FileNotFoundError:
        return []


def _is_stuck(file: Path, column: str, value: str) -> bool:
    """Whether this is a restart, and so were the last ones, all with this value."""
    last = _read(file)[-PATIENCE:]
    stuck = [row for row in last if row["restart"] != "0" and row[column] == value]
    return bool(slurm.restarts()) and len(stuck) == PATIENCE


def _add(file: Path, more: Mapping[str, object]) -> None:
    """A row of this start."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    row = {"time": now, "host": slurm.host(), "job": slurm.job_id() or "", "restart": slurm.restarts(), **more}
    before = [tuple(old[column] for column in row) for old in _read(file)]
    write_csv(file, tuple(row), [*before, tuple(row.values())])
