"""The order of training over data that lie in shards: random, and yet read a few shards at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.loaders import DataOrder
from lightning_gen.random_source import derive_seed


class ShardedOrder(DataOrder):
    """The endless order of training over shards, a function of (seed, position) alone like that of `DataOrder`.

    In each epoch the shards are permuted and cut into windows of `window` of them; one window after another, all of its
    examples are shuffled. An epoch is a permutation of all examples; any stretch of it that lies in a window needs that
    window's shards and no others. Only windows that are asked for are drawn: an epoch of 10^7 examples costs a
    permutation of its shards.

    Args:
        sizes: examples of each shard; example i of the split is in shard k where it falls in their cumulative sum.
        seed: of the order.
        window: shards whose examples are shuffled among each other.
        ahead: told, as a window begins, which shards the next one of its epoch needs.
    """

    def __init__(
        self, sizes: Sequence[int], seed: int, window: int, ahead: Callable[[list[int]], Any] = lambda shards: None
    ) -> None:
        super().__init__(sum(sizes), seed)
        self.window = window
        self._ahead = ahead
        self._sizes = torch.tensor(sizes)
        self._firsts = self._sizes.cumsum(0) - self._sizes
        self._plan: tuple[int, Tensor, Tensor] | None = None
        self._drawn: dict[tuple[int, int], Tensor] = {}

    def epoch(self, epoch: int) -> Tensor:
        return self.within(epoch, 0, self.num)

    def within(self, epoch: int, start: int, stop: int) -> Tensor:
        _, ends = self._planned(epoch)
        parts, position = [], start
        number = int(torch.searchsorted(ends, start, right=True))
        while position < stop:
            members = self._members(epoch, number)
            first = int(ends[number]) - len(members)
            parts.append(members[position - first : stop - first])
            position, number = int(ends[number]), number + 1
        return torch.cat(parts)

    def _planned(self, epoch: int) -> tuple[Tensor, Tensor]:
        """(the shards in the order of an epoch; the positions at which its windows end)."""
        if self._plan is None or self._plan[0] != epoch:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "shards", epoch))
            shards = torch.randperm(len(self._sizes), generator=generator)
            sizes = [part.sum() for part in self._sizes[shards].split(self.window)]
            self._plan = epoch, shards, torch.stack(sizes).cumsum(0)
        return self._plan[1:]

    def _members(self, epoch: int, number: int) -> Tensor:
        """The shuffled examples of a window; those of the last two are kept, since batches span both."""
        if (epoch, number) not in self._drawn:
            first = number * self.window
            both = self._planned(epoch)[0][first : first + 2 * self.window].tolist()
            shards, following = both[: self.window], both[self.window :]
            members = torch.cat([torch.arange(f, f + n) for f, n in zip(self._firsts[shards], self._sizes[shards])])
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "window", epoch, number))
            self._drawn = dict([*self._drawn.items()][-1:])
            self._drawn[epoch, number] = members[torch.randperm(len(members), generator=generator)]
            if following:  # none at an epoch's end, by which every shard has been needed
                self._ahead(following)
        return self._drawn[epoch, number]
