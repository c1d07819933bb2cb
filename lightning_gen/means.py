"""Means over the examples of a split, exact on any number of ranks."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor


def batch_mean(values: Tensor) -> Tensor:
    """Mean of one part of a loss, [B], over its batch; a scalar is such a mean already."""
    return values.mean() if values.ndim else values


class MeanOverExamples:
    """Sums n, sum v and sum v^2 in float64, and over the ranks at the end; a rank may have seen nothing.

    (Lightning's own mean keeps its weights in an integer, whose average over the ranks it truncates.)

    Attributes:
        num_examples: of all ranks, once the means are computed.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self.num_examples = 0

    def add(self, name: str, values: Tensor, num: int = 1) -> None:
        """Adds one value per example, [B], or the mean of `num` examples, [], which leaves the standard error open: NaN.

        Reads nothing from the device.
        """
        values = values.detach().double()
        if values.ndim:
            num, total, squares = len(values), values.sum(), values.square().sum()
        else:
            total, squares = num * values, values.new_tensor(math.nan)
        sums = torch.stack([values.new_tensor(float(num)), total, squares])
        self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    def compute(self) -> dict[str, tuple[float, float]]:
        """{name: (mean, standard error of the mean)}, the same on every rank."""
        parts = [{name: sums.tolist() for name, sums in self._sums.items()}]
        if dist.is_available() and dist.is_initialized():
            parts = parts * dist.get_world_size()
            dist.all_gather_object(parts, dict(parts[0]))
        names = dict.fromkeys(name for part in parts for name in part)
        totals = {name: [math.fsum(c) for c in zip(*(part[name] for part in parts if name in part))] for name in names}
        self.num_examples = int(max((sums[0] for sums in totals.values()), default=0))
        return {name: _mean_and_error(*sums) for name, sums in totals.items()}


def _mean_and_error(count: float, total: float, squares: float) -> tuple[float, float]:
    mean = total / count
    if count < 2 or not (math.isfinite(total) and math.isfinite(squares)):
        return mean, math.nan
    variance = max(0.0, squares - count * mean * mean) / (count - 1)
    return mean, math.sqrt(variance / count)
