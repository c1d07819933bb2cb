"""How far a measurement has come, stage by stage, and where its time went."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from lightning_gen.evaluation.ranks import ALONE, Ranks

Advance = Callable[[int], Any]
"""Called with the number of examples just finished."""

QUIET = 60.0
"""Seconds between the lines that stand for a bar where there is no terminal."""

T = TypeVar("T")


class Progress:
    """The display of a command's stages: bars on a terminal, a line a minute elsewhere. Of several ranks the first speaks,
    about its own share.

    Args:
        ranks: this process among others.
        silent: show nothing.
    """

    def __init__(self, ranks: Ranks = ALONE, silent: bool = False) -> None:
        self._speaks = ranks.first and not silent
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self._speaks and sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bars(*columns, TextColumn("{task.fields[rate]}"), transient=True)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def stage(self, label: str, total: int) -> Advance:
        """Begins a stage of `total` examples; what it returns is told of each batch."""
        if not self._speaks or total == 0:
            return int
        begun = spoken = time.monotonic()
        done = 0
        task = self._bar.add_task(label, total=total, rate="") if self._bar is not None else None

        def advance(num: int) -> None:
            nonlocal done, spoken
            done += num
            now = time.monotonic()
            rate = done / max(now - begun, 1e-9)
            if task is not None:
                self._bar.update(task, advance=num, rate=f"{rate:.3g}/s")
            elif now - spoken > QUIET:
                spoken, left = now, (total - done) / rate
                print(f"{label}: {done} of {total}, {int(left) // 60}:{int(left) % 60:02d} left", flush=True)

        return advance


SILENT = Progress(silent=True)


@contextmanager
def progress(label: str, total: int, ranks: Ranks = ALONE) -> Iterator[Advance]:
    """A display of one stage."""
    with Progress(ranks) as shown:
        yield shown.stage(label, total)


class Stopwatch:
    """Seconds by what they went into, in this process."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun = time.perf_counter()

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """What runs within goes into `what`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start

    def each(self, what: str, items: Iterable[T]) -> Iterator[T]:
        """The items; making each goes into `what`, what is done with it does not."""
        iterator = iter(items)
        while True:
            with self.on(what):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def total(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._begun
