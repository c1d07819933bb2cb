"""What an evaluation has measured so far, on disk: one that is cut goes on from there.

Samples and examples are keyed by their index, so a part is good for any batch size and any number of ranks.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch

from lightning_gen.evaluation.ranks import Ranks
from lightning_gen.run_directory import damage


class Sized(Protocol):
    """What `Parts` keeps: so and so many samples or examples."""

    def __len__(self) -> int: ...


T = TypeVar("T", bound=Sized)

ATTEMPTS = 10
"""To write a part, while other commands of the same name clear the folder away."""


class Parts:
    """A folder of parts, each a file named by its kind, what it depends on, and its range of indices.

    Several commands may use a folder at once. Those that measure the same write equal parts; what one of them clears
    away, the others make again.

    Args:
        folder: made when the first part is; None to keep nothing.
        digests: {kind: what its parts depend on}; parts of another digest are another measurement's.
    """

    def __init__(self, folder: Path | None = None, digests: Mapping[str, str] | None = None) -> None:
        self.folder, self.digests = folder, digests or {}
        self.reused: dict[str, int] = {}

    @classmethod
    def of(cls, folder: Path, depends_on: Mapping[str, Any], ranks: Ranks) -> Self:
        """The parts in `folder` of measurements that depend on these primitives, by kind; others of these kinds go.

        All ranks meet here: none writes before the first has cleared the folder.
        """
        digests = {kind: _digest(primitives) for kind, primitives in depends_on.items()}
        for file in _files(folder) if ranks.first else ():
            kind, _, rest = file.name.partition("-")
            left = file.suffix == ".partial" and not _is_written(file)
            if left or (file.suffix == ".pt" and kind in digests and not rest.startswith(digests[kind])):
                file.unlink(missing_ok=True)
        ranks.exchange()
        return cls(folder, digests)

    def resumed(
        self,
        kind: str,
        share: range,
        make: Callable[[range], Iterator[T]],
        state: Callable[[T], Any],
        restore: Callable[[Any], T],
        advance: Callable[[int], Any] = int,
    ) -> Iterator[T]:
        """Everything of `share` in the order of its indices: what is stored, and what `make` yields for each gap.

        Args:
            make: yields consecutive pieces that together are the gap; each is kept before it is given on.
            state, restore: a piece as primitives and tensors, and back.
            advance: told the length of what was stored; `make` sees to its own.
        """
        position = share.start
        for stored, file in self._inside(kind, share):
            yield from self._made(kind, range(position, stored.start), make, state)
            piece = None
            with suppress(Exception):  # damaged, of an older version, or cleared away: made again
                if damage(file) is None:
                    piece = restore(torch.load(file, weights_only=True))
            if piece is None or len(piece) != len(stored):
                yield from self._made(kind, stored, make, state)
            else:
                self.reused[kind] = self.reused.get(kind, 0) + len(stored)
                yield piece
                advance(len(stored))
            position = stored.stop
        yield from self._made(kind, range(position, share.stop), make, state)

    def _made(
        self, kind: str, gap: range, make: Callable[[range], Iterator[T]], state: Callable[[T], Any]
    ) -> Iterator[T]:
        position = gap.start
        for piece in make(gap) if gap else ():
            if self.folder is not None:
                self._keep(self.folder, kind, range(position, position + len(piece)), state(piece))
            position += len(piece)
            yield piece

    def _keep(self, folder: Path, kind: str, indices: range, content: Any) -> None:
        name = f"{self._prefix(kind)}-{indices.start:010d}-{indices.stop:010d}"
        partial = folder / f"{name}.{os.getpid()}@{platform.node()}.partial"
        for attempt in range(1, ATTEMPTS + 1):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with partial.open("wb") as file:
                    torch.save(content, file)
                os.replace(partial, folder / f"{name}.pt")
            except (
                FileNotFoundError,
                FileExistsError,
            ):  # both from mkdir too, where the folder goes as it is looked at
                if attempt == ATTEMPTS:
                    raise
            else:
                return

    def _prefix(self, kind: str) -> str:
        return f"{kind}-{self.digests.get(kind, '')}"

    def _inside(self, kind: str, share: range) -> Iterator[tuple[range, Path]]:
        """The stored parts that lie in `share` as a whole, by their order; none overlaps another."""
        name = re.compile(re.escape(self._prefix(kind)) + r"-(\d{10})-(\d{10})\.pt")
        position = share.start
        for file in _files(self.folder):
            found = name.fullmatch(file.name)
            if found is None:
                continue
            start, stop = int(found[1]), int(found[2])
            if position <= start < stop <= share.stop:
                position = stop
                yield range(start, stop), file

    def clear(self) -> None:
        """The measurement is done: nothing of it is needed any more. What else is in the folder stays, and keeps it."""
        if self.folder is None:
            return
        own = tuple(f"{self._prefix(kind)}-" for kind in self.digests)
        for file in _files(self.folder):
            if file.name.startswith(own) and not _is_written(file):
                file.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or gone
            self.folder.rmdir()


def _files(folder: Path | None) -> list[Path]:
    """By name; none where there is no folder, or no longer."""
    try:
        return sorted(folder.iterdir()) if folder is not None else []
    except FileNotFoundError:
        return []


def _is_written(file: Path) -> bool:
    """Whether another process of this machine may be writing the file; one of another machine writes it again."""
    found = re.fullmatch(r".*\.(\d+)@(.*)\.partial", file.name)
    if found is None or found[2] != platform.node() or int(found[1]) == os.getpid():
        return False
    try:
        os.kill(int(found[1]), 0)
    except PermissionError:  # another user's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _digest(primitives: Any) -> str:
    return hashlib.sha256(json.dumps(primitives, sort_keys=True).encode()).hexdigest()[:16]
