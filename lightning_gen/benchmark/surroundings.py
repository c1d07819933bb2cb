"""Where a run of a benchmark works and speaks: in a process that the benchmark has forked, or in this one."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import IO

from lightning_gen.errors import Interrupted
from lightning_gen.processes import die_with_parent


def failed(log: Path) -> bool:
    """Whether what spoke to `log` has failed, by an error of its own: one that was killed, or told to stop, has not."""
    return _failure(log).exists()


def reason(log: Path) -> str | None:
    """Why what spoke to `log` failed, in one line, where the user can mend it."""
    return (failed(log) and _failure(log).read_text()) or None


def diagnosis(error: BaseException, verb: str, args: list[str]) -> str | None:
    """The line that the command line prints of an error; None for a bug."""
    from lightning_gen.diagnosis import diagnose  # looked up only once something has failed

    return diagnose(error, verb, args)


@contextmanager
def worker(log: Path) -> Iterator[None]:
    """The life of a worker process: it dies with the benchmark, speaks to `log`, and ends with status 1 if it fails; what
    the user can mend then stands beside the log, for `reason`.
    """
    die_with_parent()  # an orphan would train on beside its successor
    stream = _opened(log)
    for descriptor in (1, 2):
        os.dup2(stream.fileno(), descriptor)
    sys.stdout = sys.stderr = stream
    try:
        yield
    except BaseException as error:
        _record(error, log, stream)
        stream.flush()
        os._exit(1)
    stream.flush()


@contextmanager
def this_process(log: Path) -> Iterator[None]:
    """What this process says goes to `log` too; an error is left there as a worker leaves it, and goes on from here."""
    stream = _opened(log)
    with redirect_stdout(_Both(sys.stdout, stream)), redirect_stderr(_Both(sys.stderr, stream)):
        try:
            yield
        except BaseException as error:
            _record(error, log, stream)  # to those who watch, the command line says it
            raise
        finally:
            stream.flush()


def _opened(log: Path) -> IO[str]:
    """The log, to be written on, as of a process that has not failed; open until the process ends, since what was
    imported meanwhile may have taken it for standard error."""
    log.parent.mkdir(parents=True, exist_ok=True)
    _failure(log).unlink(missing_ok=True)
    return open(log, "a", buffering=1)


def _failure(log: Path) -> Path:
    return log.with_name("failure.txt")


def _record(error: BaseException, log: Path, stream: IO[str]) -> None:
    """Leaves the traceback in the log, and in failure.txt what the user can mend: nothing, for a bug.

    Who was told to stop has not failed: that is a line of the log.
    """
    if isinstance(error, Interrupted | KeyboardInterrupt):
        print(str(error) or "interrupted", file=stream)
        return
    traceback.print_exception(error, file=stream)
    with suppress(Exception):
        _failure(log).write_text(diagnosis(error, "benchmark", []) or "")


class _Both(io.TextIOBase):
    """Writes to two streams. It is no terminal: a log that people read later holds lines, and no bars that move."""

    def __init__(self, first: IO[str], second: IO[str]) -> None:
        self._streams = (first, second)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for stream in self._streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self._streams:
            stream.flush()
