"""Where the training times are drawn: t and its density p(t). It only changes the variance of the loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_gen.random_source import RandomSource


class TimeSampler(ABC):
    """Draws the times of a whole global batch at once; each rank and micro-batch takes the rows that are its own."""

    @abstractmethod
    def sample(self, num: int, rng: RandomSource) -> Tensor:
        """[num] times in [0, 1], each with density `density`."""

    def density(self, t: Tensor) -> Tensor:
        """p(t), of t's shape."""
        return torch.ones_like(t)


class Uniform(TimeSampler):
    """Independent times."""

    def sample(self, num: int, rng: RandomSource) -> Tensor:
        return rng.uniform((num,))


class LowDiscrepancy(TimeSampler):
    """One time in each of `num` equal strata, with one common offset (Kingma et al. 2021, app. I.1).

    Marginally uniform, and far less noisy: the strata cover [0, 1] in every batch. Since the whole global batch is
    stratified, the variance does not grow with the number of ranks or accumulated micro-batches. Strata are dealt out in
    golden-ratio steps, so that each rank's and micro-batch's share covers [0, 1] too.
    """

    def sample(self, num: int, rng: RandomSource) -> Tensor:
        offset = rng.uniform(
            (1,), dtype=torch.float64
        )  # float32 would round (num - 1 + u) / num up to 1 in big batches
        stride = next(s for s in range(max(1, round(num * 0.618)), num + 1) if math.gcd(s, num) == 1)
        stratum = torch.arange(num, device=offset.device) * stride % num
        return ((stratum + offset) / num).float().clamp_(max=1.0)
