"""Splits, the order of training over one, and the loaders that cut it among ranks. Nothing of Lightning.

The order of training is an infinite stream of examples, a function of (seed, position) alone: epoch e is a permutation
seeded by (seed, e), and global batch k is positions [k B, (k + 1) B) of the concatenated epochs. Nothing is dropped,
repeated or padded, and a run that resumes at step k goes on with batch k, with no state of the data in its checkpoint.
"""

from __future__ import annotations

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.random_source import derive_seed


class Batch(NamedTuple):
    """Some examples of a split: `x` [B, *shape], `y` [B, ...] or None, `index` int64 [B], their positions in the split.

    Evaluation noise is keyed by `index`, the augmentation of training by `micro_step`: the batch's place in its rank's
    stream, counted from the run's start. Evaluation has none, but -1 in the batch of a rank that has no example of its
    own: it takes part in the collectives, and no result holds it.
    """

    x: Tensor
    y: Tensor | None
    index: Tensor
    micro_step: int | None = None

    @property
    def counts(self) -> bool:
        """Whether results hold this batch."""
        return self.micro_step != -1


Request = tuple[Tensor, int | None]
"""Which examples a batch is made of (int64 [B]), and its micro-step, if it is one of training."""


class ContentHash:
    """Tells the content of a split (values, shapes, types) from any other; fed the column x, then y, in pieces."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def column(self, dtype: torch.dtype, shape: Sequence[int]) -> None:
        """What follows is rows of a column of this type and whole shape."""
        self._digest.update(f"{dtype}{tuple(shape)}".encode())

    def no_column(self) -> None:
        self._digest.update(b"none")

    def rows(self, values: np.ndarray) -> None:
        self._digest.update(np.ascontiguousarray(values))

    def hexdigest(self) -> str:
        """16 hexadecimal digits."""
        return self._digest.hexdigest()[:16]


class Split(ABC):
    """The examples of one split, wherever they are.

    Attributes:
        x: [N, *shape], a tensor or what has its length, shape and type and is sliced like one.
        y: labels (or embeddings) [N, ...], likewise; or None.
    """

    x: Any
    y: Any

    def __len__(self) -> int:
        return len(self.x)

    @abstractmethod
    def take(self, index: Tensor, micro_step: int | None = None) -> Batch:
        """The examples at `index` (int64 [B]), as one batch."""

    @abstractmethod
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell this content (values, shapes, types) from any other."""

    def order(self, seed: int) -> DataOrder:
        """The order of training over these examples."""
        return DataOrder(len(self), seed)

    def fetch(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """The batches that are asked for, in that order."""
        return (self.take(*request) for request in requests)


@dataclass(frozen=True, eq=False)
class Examples(Split):
    """One split in memory: `x` [N, *shape], and labels (or embeddings) `y` [N, ...], or None."""

    # A large uint8 array goes here as torch.from_numpy(numpy.memmap(...)): the ranks of a node then share its pages.
    x: Tensor
    y: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.x) == 0 or (self.y is not None and len(self.y) != len(self.x)):
            raise ValueError(f"{len(self.x)} examples with {'no' if self.y is None else len(self.y)} labels")

    def take(self, index: Tensor, micro_step: int | None = None) -> Batch:
        y = None if self.y is None else self.y.index_select(0, index)
        return Batch(self.x.index_select(0, index), y, index, micro_step)

    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = ContentHash()
        for tensor in (self.x, self.y):
            if tensor is None:
                digest.no_column()
            else:
                digest.column(tensor.dtype, tensor.shape)
                digest.rows(tensor.contiguous().view(torch.uint8).numpy())  # numpy knows no bfloat16
        return digest.hexdigest()


@dataclass(frozen=True)
class BatchLayout:
    """How a global batch is cut: in micro-batch m, rank r of W has the rows [(m W + r) b, (m W + r + 1) b).

    Args:
        batch_size: examples in the global batch, one optimizer step.
        micro_batch_size: the most examples a rank processes at once; None for all of its share.
        rank, world_size: of this process.

    Raises:
        UserError: sizes below one, or that do not divide.
    """

    batch_size: int
    micro_batch_size: int | None = None
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "micro_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, not {value}.")
        if self.batch_size % self.world_size:
            raise UserError(f"batch_size {self.batch_size} does not divide among {self.world_size} ranks.")
        share = self.batch_size // self.world_size
        if share % self.micro:
            raise UserError(
                f"Each of {self.world_size} ranks has {share} examples of batch_size {self.batch_size}, "
                f"which micro_batch_size {self.micro_batch_size} does not divide."
            )

    @property
    def micro(self) -> int:
        """Examples in a micro-batch, b."""
        share = self.batch_size // self.world_size
        return share if self.micro_batch_size is None else min(share, self.micro_batch_size)

    @property
    def accumulation(self) -> int:
        """Micro-batches in an optimizer step."""
        return self.batch_size // (self.world_size * self.micro)

    def first_row(self, micro_step: int) -> int:
        """The first of this rank's `micro` rows of the global batch, in a micro-step counted from the run's start."""
        return (micro_step % self.accumulation * self.world_size + self.rank) * self.micro


class DataOrder:
    """The endless order of training over `num` examples: each epoch a permutation, seeded by (seed, epoch)."""

    def __init__(self, num: int, seed: int) -> None:
        self.num = num
        self.seed = seed
        self._last: tuple[int, Tensor] | None = None

    def epoch(self, epoch: int) -> Tensor:
        """The permutation of one epoch, int64 [num]; the last one asked for is kept."""
        if self._last is None or self._last[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            self._last = epoch, torch.randperm(self.num, generator=generator)
        return self._last[1]

    def within(self, epoch: int, start: int, stop: int) -> Tensor:
        """Positions [start, stop) of one epoch, int64 [stop - start], with 0 <= start < stop <= num."""
        return self.epoch(epoch)[start:stop]

    def positions(self, start: int, stop: int) -> Tensor:
        """The examples at positions [start, stop) of the stream, int64 [stop - start]; they may span epochs."""
        firsts = range(start // self.num * self.num, stop, self.num)
        parts = [(first, max(start - first, 0), min(stop - first, self.num)) for first in firsts]
        return torch.cat([self.within(first // self.num, begin, end) for first, begin, end in parts])


class TrainingStream:
    """One rank's endless stream of micro-batches. It has no length: training is counted in steps, never in epochs.

    Args:
        start: asked at every `__iter__` for the micro-step to begin at.
        distinct: global batches that are repeated without end; None for those of all examples.
    """

    def __init__(
        self,
        examples: Split,
        layout: BatchLayout,
        seed: int = 0,
        start: Callable[[], int] = lambda: 0,
        distinct: int | None = None,
    ) -> None:
        self.examples = examples
        self.layout = layout
        self.start = start
        self.distinct = distinct
        self._order = examples.order(seed)

    def requests(self) -> Iterator[Request]:
        """What the micro-batches are made of, from the start on, without end."""
        for micro_step in itertools.count(self.start()):
            batch = micro_step // self.layout.accumulation
            batch = batch % self.distinct if self.distinct else batch
            first = batch * self.layout.batch_size + self.layout.first_row(micro_step)
            yield self._order.positions(first, first + self.layout.micro), micro_step

    def __iter__(self) -> Iterator[Batch]:
        return self.examples.fetch(self.requests())


class EvaluationLoader:
    """One rank's contiguous shard [r N // W, (r + 1) N // W) of a split: over the ranks, every example exactly once.

    The shard is cut into the fewest equal batches (to within one example) of at most `batch_size`, their number that of
    the largest shard, so that all ranks take equally many steps and none waits for another in a collective. A rank with
    fewer examples than that has batches of the first example instead, which do not count.
    """

    def __init__(self, examples: Split, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.examples = examples
        self.first = rank * len(examples) // world_size
        self.last = (rank + 1) * len(examples) // world_size
        largest = -(-len(examples) // world_size)
        self._num_batches = -(-largest // batch_size)

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Batch]:
        own = min(len(self), self.last - self.first)
        requests: list[Request] = [
            (index, None) for index in torch.arange(self.first, self.last).tensor_split(own or 1)
        ]
        return self.examples.fetch(requests[:own] + [(torch.tensor([0]), -1)] * (len(self) - own))
