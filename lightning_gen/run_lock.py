"""RUN/lock: one process trains, or measures, in a run directory. Held by the system, so that it ends with the process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning_gen.cluster import slurm, stop
from lightning_gen.errors import AGAIN, Interrupted, UserError

WAIT_S = 120.0
"""Seconds that a restarted job waits for what may be left of itself on a node that was lost."""

_MOMENT_S = 1.0
"""Seconds that anyone waits: one who only looks (`is_held`) holds it for an instant."""

_ours: dict[Path, tuple[int, int]] = {}
"""Locks that this process holds: the open file, and how many times."""


def take(run: Path, shared: bool = False, taken: str = "another process trains in", option: str = "--run") -> None:
    """Holds the lock until `release`, or until this process ends, however it ends; again if it holds it already.

    Where files cannot be locked there is no check.

    Args:
        shared: with others that share it.
        taken, option: words of the refusal.

    Raises:
        UserError: another process holds it; says which.
        Interrupted: this one was told to stop while it waited.
    """
    place = run.resolve()
    if place in _ours:
        file, count = _ours[place]
        _ours[place] = file, count + 1
        return
    place.mkdir(parents=True, exist_ok=True)
    file = _opened(place)
    deadline = time.monotonic() + (WAIT_S if slurm.restarts() else _MOMENT_S)
    while not _locked(file, shared):
        if time.monotonic() > deadline:
            by = ""
            with suppress(OSError):
                by = os.pread(file, 200, 0).decode(errors="replace").strip()
            os.close(file)
            raise UserError(f"{taken} {run}{f' ({by})' if by else ''}: wait for its end, or give another {option}")
        if stop.told() is not None:
            os.close(file)
            raise Interrupted(f"told to stop: {taken} {run}; the same command again", AGAIN)
        time.sleep(0.1)
    with suppress(OSError):  # what is no file, or may only be read
        os.ftruncate(file, 0)
        os.pwrite(file, f"{_holder()}\n".encode(), 0)
    _ours[place] = file, 1


def release(run: Path) -> None:
    """Ends one `take`; nothing where there was none."""
    place = run.resolve()
    if place not in _ours:
        return
    file, count = _ours.pop(place)
    if count > 1:
        _ours[place] = file, count - 1
        return
    _unlocked(file)  # a worker that was forked has the file open too
    os.close(file)


@contextmanager
def holding(run: Path, **how: Any) -> Iterator[None]:
    """Holds the lock within.

    Args:
        how: as `take`, which also says what is raised.
    """
    take(run, **how)
    try:
        yield
    finally:
        release(run)


def _opened(place: Path) -> int:
    """RUN/lock, whatever it is, or where there can be none the directory itself: both can be locked."""
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        with suppress(OSError):
            return os.open(place / "lock", flags | os.O_NONBLOCK, 0o666)
    return os.open(place, os.O_RDONLY)


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """One process at a time, also of the machines that share the folder, which is waited for; any number where locks cannot
    be had.

    Args:
        place: a folder, or a file that is made.
    """
    with ExitStack() as stack:
        with suppress(ImportError, OSError):  # no POSIX, a folder or a file system that does not allow it
            import fcntl

            place.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(place, os.O_RDONLY if place.is_dir() else os.O_WRONLY | os.O_CREAT, 0o666)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def is_held(run: Path) -> bool:
    """Whether another process trains in `run` now."""
    place = run.resolve()
    if place in _ours or not (place / "lock").exists():
        return False
    file = os.open(place / "lock", os.O_RDONLY | os.O_NONBLOCK)
    try:
        return not _locked(file, shared=True)
    finally:
        os.close(file)


def _locked(file: int, shared: bool = False) -> bool:
    """Whether the lock is this file's now; True too where there are no locks."""
    try:
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # a system or a file system that knows none
        return True
    return True


def _unlocked(file: int) -> None:
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)
    except (ImportError, OSError):
        pass


def _holder() -> str:
    """Who this process is, for another that finds the run taken."""
    job = slurm.job_id()
    return f"{f'job {job}, ' if job else ''}process {os.getpid()} on {slurm.host()}"
