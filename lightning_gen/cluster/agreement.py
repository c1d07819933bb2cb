"""What one rank knows and all must act on at the same step, without a wait for any device."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


class Agreement:
    """The largest of the numbers that the ranks say, one round late.

    A round's numbers travel while the next step computes, over a group of the CPU's own: neither the host nor a GPU waits
    for them. All ranks take part in every round, in the same order.
    """

    def __init__(self) -> None:
        self.alone = not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)
        # A round waits as long as the slowest rank takes for its step, be it one that draws a sheet; a rank that is dead
        # closes its connections, and is noticed by that.
        self._group = None if self.alone else dist.new_group(backend="gloo", timeout=timedelta(days=1))
        self._round: tuple[Any, torch.Tensor] | None = None

    def last(self) -> int:
        """What was agreed in the round before, 0 if there was none; waits for it."""
        if self._round is None:
            return 0
        (work, value), self._round = self._round, None
        work.wait()
        return int(value)

    def say(self, number: int) -> int:
        """Begins a round with this rank's number; returns the agreed number of the round before (alone: this one's)."""
        if self.alone:
            return number
        agreed = self.last()
        self._begin(number)
        return agreed

    def now(self, number: int) -> int:
        """The largest of all ranks' numbers, and of the round that is under way; waits for them."""
        if self.alone:
            return number
        before = self.last()
        self._begin(number)
        return max(before, self.last())

    def range(self, number: int) -> tuple[int, int]:
        """The smallest and the largest of all ranks' numbers, waited for. The round that is under way goes on."""
        if self.alone:
            return number, number
        values = torch.tensor([-number, number])
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self._group)
        return -int(values[0]), int(values[1])

    def _begin(self, number: int) -> None:
        value = torch.tensor(number)
        self._round = dist.all_reduce(value, dist.ReduceOp.MAX, group=self._group, async_op=True), value
