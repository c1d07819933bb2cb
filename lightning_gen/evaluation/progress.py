"""The progress bar of a measurement."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_gen.evaluation.measure import Advance
from lightning_gen.evaluation.ranks import ALONE, Ranks


@contextmanager
def progress(label: str, total: int, ranks: Ranks = ALONE) -> Iterator[Advance]:
    """A bar on a terminal, silence elsewhere. Of several ranks the first shows how far its own share is."""
    if not (sys.stdout.isatty() and ranks.first):
        yield int
        return
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda n: bar.advance(task, n)
