"""The jobs that were submitted for a benchmark, by their ids in DIR/slurm/jobs, and those of them that have not ended."""

from __future__ import annotations

import subprocess
from collections.abc import Collection
from pathlib import Path

from lightning_gen.benchmark.measurement import text_of
from lightning_gen.errors import UserError
from lightning_gen.run_directory import write_atomically

_PATIENCE_S = 60.0
"""For an answer of Slurm's, whose controller may be busy."""


def jobs(folder: Path) -> list[str]:
    """Of the last submission, in its order: arrays, what makes the table, and what succeeds them where requeueing is
    forbidden (slurm/array.sbatch adds it)."""
    return list(dict.fromkeys((text_of(_file(folder)) or "").split()))


def forget(folder: Path) -> None:
    """Begins a submission."""
    write_atomically(_file(folder), "")


def remember(folder: Path, job: str) -> None:
    """Adds a job of this submission."""
    with open(_file(folder), "a") as file:
        file.write(f"{job}\n")


def unended(jobs: Collection[str]) -> dict[str, set[int]]:
    """{job: its elements that wait or run; none of a job that is no array} of those of these jobs that have not ended.

    Raises:
        UserError: Slurm does not say.
    """
    if not jobs:
        return {}
    # not by --jobs: of a job that is forgotten squeue says nothing but an error
    command = [
        "squeue",
        "--me",
        "--noheader",
        "--array",
        "--format=%F %K",
    ]  # of an element the array's id, and its place
    try:
        made = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"Slurm does not say whether jobs {', '.join(jobs)} have ended: {_said(error)}") from error
    found: dict[str, set[int]] = {}
    for job, *place in map(str.split, made.stdout.splitlines()):
        if job in jobs:
            found.setdefault(job, set()).update(int(each) for each in place if each.isdigit())
    return {job: found[job] for job in jobs if job in found}


def refuse_beside(folder: Path) -> None:
    """Raises UserError where jobs that were submitted for this directory have not ended."""
    left = list(unended(jobs(folder)))
    if left:
        raise UserError(
            f"jobs for {folder} have not ended ({', '.join(left)}): wait for them, or end them with scancel "
            f"{' '.join(left)}"
        )


def _file(folder: Path) -> Path:
    return folder / "slurm" / "jobs"


def _said(error: Exception) -> str:
    return " ".join((getattr(error, "stderr", None) or str(error)).split())
