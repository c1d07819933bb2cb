"""What an evaluation has measured so far, on disk: one that is cut goes on from there.

Samples and examples are keyed by their index, so a part is good for any batch size and any number of ranks.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch

from lightning_gen.evaluation.ranks import Ranks


class Sized(Protocol):
    """What `Parts` keeps: so and so many samples or examples."""

    def __len__(self) -> int: ...


T = TypeVar("T", bound=Sized)


class Parts:
    """A folder of parts, each a file named by its kind, what it depends on, and its range of indices.

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
        if ranks.first and folder.is_dir():
            for file in folder.iterdir():
                kind, _, rest = file.name.partition("-")
                if file.suffix != ".pt" or (kind in digests and not rest.startswith(digests[kind])):
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
            try:
                piece = restore(torch.load(file, weights_only=True))
            except Exception:  # cut as it was written, or of an older version: made again
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
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{self._prefix(kind)}-{indices.start:010d}-{indices.stop:010d}.pt"
        partial = file.with_suffix(f".{os.getpid()}.partial")
        torch.save(content, partial)
        os.replace(partial, file)

    def _prefix(self, kind: str) -> str:
        return f"{kind}-{self.digests.get(kind, '')}"

    def _inside(self, kind: str, share: range) -> Iterator[tuple[range, Path]]:
        """The stored parts that lie in `share` as a whole, by their order; none overlaps another."""
        name = re.compile(re.escape(self._prefix(kind)) + r"-(\d{10})-(\d{10})\.pt")
        here = self.folder is not None and self.folder.is_dir()
        position = share.start
        for file in sorted(self.folder.iterdir()) if here else []:
            found = name.fullmatch(file.name)
            if found is None:
                continue
            start, stop = int(found[1]), int(found[2])
            if position <= start < stop <= share.stop:
                position = stop
                yield range(start, stop), file

    def clear(self) -> None:
        """The measurement is done: nothing of it is needed any more."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _digest(primitives: Any) -> str:
    return hashlib.sha256(json.dumps(primitives, sort_keys=True).encode()).hexdigest()[:16]
