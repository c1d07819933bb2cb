"""The attempts at a run, one a start: RUN/attempts.csv of its training, RUN/measuring.csv of what measures it then."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from lightning_gen.cluster import slurm
from lightning_gen.errors import UserError
from lightning_gen.run_directory import set_aside, write_csv

PATIENCE = 5
"""Restarts of a job that may begin at one and the same point, one after the other."""

_TAIL = 2**16
"""Bytes that are read of the end of such a file."""


def read_attempts(run: Path) -> list[dict[str, str]]:
    """The last starts of a run, first to last; none where it has not begun."""
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
    """The last rows, some hundred; none where there is no such file, or anything else."""
    try:
        if not file.is_file():  # reading a pipe would wait
            return []
        with open(file, "rb") as stream:
            header = stream.readline(_TAIL)
            stream.seek(max(len(header), stream.seek(0, os.SEEK_END) - _TAIL))
            lines = stream.read().decode(errors="replace").replace("\0", "").splitlines()
        columns = next(csv.reader([header.decode()]), [])
        if columns[:1] != ["time"]:
            return []
        return [dict(zip(columns, values)) for values in csv.reader(lines) if len(values) == len(columns)]
    except (OSError, ValueError, csv.Error):
        return []


def _is_stuck(file: Path, column: str, value: str) -> bool:
    """Whether this is a restart, and so were the last ones, all with this value."""
    last = _read(file)[-PATIENCE:]
    stuck = [row for row in last if row.get("restart", "0") != "0" and row.get(column) == value]
    return bool(slurm.restarts()) and len(stuck) == PATIENCE


def _add(file: Path, more: Mapping[str, object]) -> None:
    """A row of this start."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    row = {"time": now, "host": slurm.host(), "job": slurm.job_id() or "", "restart": slurm.restarts(), **more}
    row["directory"] = str(file.parent.resolve())
    before = _read(file)
    if before and list(before[-1]) == list(row):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row.values())
        with open(file, "r+b") as stream:
            ended = stream.seek(-1, os.SEEK_END) >= 0 and stream.read() == b"\n"
            stream.write((b"" if ended else b"\n") + text.getvalue().encode())
        return
    if not before and os.path.lexists(file):
        set_aside(file)
    write_csv(file, tuple(row), [*([old.get(column, "") for column in row] for old in before), row.values()])


def other_places(run: Path) -> list[Path]:
    """Directories, other than this one, in which the run was begun or gone on with, and that are still there: it is a copy."""
    named = dict.fromkeys(Path(row["directory"]) for row in read_attempts(run) if row.get("directory"))
    return [place for place in named if _another(place, run)]


def _another(place: Path, run: Path) -> bool:
    """Whether a directory stands there that is not the run's; one that cannot be entered or named counts as absent."""
    with suppress(OSError, ValueError):
        return place.is_dir() and not place.samefile(run)
    return False
