"""Randomness as a function of (seed, step, rank) in training and of (seed, index) in evaluation.

No code outside training draws from torch's global generators: it takes a `RandomSource`.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

BLOCK = 64
"""Sample indices that share one generator in an `IndexedSource`."""


def derive_seed(*keys: int | str) -> int:
    """A 63-bit seed that depends on every key and on their order (BLAKE2b of their text)."""
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in keys)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seed_global_state(seed: int, device: torch.device) -> None:
    """Seeds torch's global generators of the CPU and of `device`, for what draws from them in training (dropout).

    `torch.manual_seed` seeds every kind of device; for one that is not in use yet it formats the call stack, which takes
    longer than a small network's step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


class RandomSource(ABC):
    """Draws of a given shape whose first dimension is the batch."""

    @abstractmethod
    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal variates."""

    @abstractmethod
    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform variates in [0, 1)."""

    @abstractmethod
    def integers(self, high: int, shape: Sequence[int]) -> Tensor:
        """Uniform integers in {0..high-1}, int64."""

    @abstractmethod
    def fork(self, *keys: int | str) -> RandomSource:
        """An independent source for a named purpose; forking draws nothing from this one."""

    def samples(self, num: int) -> RandomSource:
        """A source of `num` rows for each of this one's, all of the first sample first; sample k is the fork ("sample", k)."""
        return StackedSource([self.fork("sample", k) for k in range(num)])


class GeneratorSource(RandomSource):
    """One generator for the whole batch. With `seed=None` it draws from torch's global state (training only)."""

    def __init__(self, seed: int | None = None, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._seed = seed

    @cached_property
    def _generator(self) -> torch.Generator | None:
        # made at the first draw: a training step has sources from which it may draw nothing
        return None if self._seed is None else torch.Generator(self.device).manual_seed(derive_seed(self._seed))

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, generator=self._generator, device=self.device, dtype=dtype)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.rand(*shape, generator=self._generator, device=self.device, dtype=dtype)

    def integers(self, high: int, shape: Sequence[int]) -> Tensor:
        return torch.randint(high, tuple(shape), generator=self._generator, device=self.device)

    def fork(self, *keys: int | str) -> GeneratorSource:
        if self._seed is None:
            return self
        return GeneratorSource(derive_seed(self._seed, *keys), self.device)

    def samples(self, num: int) -> GeneratorSource:
        """Itself: it has rows for any batch, and one call draws them all."""
        return self


class IndexedSource(RandomSource):
    """Row b of every draw depends on (seed, indices[b], how many draws came before) alone.

    One generator serves each block of 64 consecutive indices, so a batch costs one call a block and what index i gets
    does not depend on the batch size, on the batch's other members or on the number of ranks.

    Args:
        seed: of the whole evaluation.
        indices: the index of each row of the batch, [B].
        device: where the draws are made. CPU and CUDA generators differ; the numbers are equal on one kind of device.
    """

    def __init__(self, seed: int, indices: Iterable[int] | Tensor, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._seed = seed
        self.indices = torch.as_tensor(indices if isinstance(indices, Tensor) else list(indices)).long().cpu()
        if self.indices.ndim != 1 or (self.indices < 0).any():
            raise ValueError("indices must be a vector of non-negative integers")
        blocks, self._block_of_row = torch.unique(self.indices // BLOCK, return_inverse=True)
        self._blocks = blocks.tolist()
        self._rows = (self._block_of_row * BLOCK + self.indices % BLOCK).to(self.device)

    @cached_property
    def _generators(self) -> list[torch.Generator]:
        return [torch.Generator(self.device).manual_seed(derive_seed(self._seed, block)) for block in self._blocks]

    def _draw(self, function, shape: Sequence[int], **kwargs) -> Tensor:
        if shape[0] != len(self.indices):
            raise ValueError(f"this source serves {len(self.indices)} indices, the draw has shape {tuple(shape)}")
        rows = [function((BLOCK, *shape[1:]), generator=g, device=self.device, **kwargs) for g in self._generators]
        return torch.cat(rows)[self._rows]

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return self._draw(torch.randn, shape, dtype=dtype)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return self._draw(torch.rand, shape, dtype=dtype)

    def integers(self, high: int, shape: Sequence[int]) -> Tensor:
        return self._draw(lambda size, **kwargs: torch.randint(high, size, **kwargs), shape)

    def fork(self, *keys: int | str) -> IndexedSource:
        forked = copy.copy(self)  # the rows are the same, on the device already: of 5000 samples each has a fork
        forked._seed = derive_seed(self._seed, *keys)
        forked.__dict__.pop("_generators", None)
        return forked


class StackedSource(RandomSource):
    """Several sources as one: the rows of the first, then those of the second."""

    def __init__(self, sources: Sequence[RandomSource]) -> None:
        self.sources = sources

    def _draw(self, shape: Sequence[int], draw: Callable[[RandomSource, tuple[int, ...]], Tensor]) -> Tensor:
        rows, rest = divmod(shape[0], len(self.sources))
        if rest:
            raise ValueError(f"{len(self.sources)} samples have as many rows each, a draw of {shape[0]} has not")
        return torch.cat([draw(source, (rows, *shape[1:])) for source in self.sources])

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return self._draw(shape, lambda source, part: source.normal(part, dtype))

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return self._draw(shape, lambda source, part: source.uniform(part, dtype))

    def integers(self, high: int, shape: Sequence[int]) -> Tensor:
        return self._draw(shape, lambda source, part: source.integers(high, part))

    def fork(self, *keys: int | str) -> StackedSource:
        return StackedSource([source.fork(*keys) for source in self.sources])


@dataclass(frozen=True)
class LossDraws:
    """Where the randomness of one evaluation of the training loss comes from.

    Attributes:
        rows: [B], this batch's rows within the whole batch (all ranks and micro-batches), int64.
        total: size of that whole batch.
        shared: a source that is the same on every rank, for what is drawn for the whole batch at once.
        own: a source for this batch's rows.
    """

    rows: Tensor
    total: int
    shared: RandomSource
    own: RandomSource
