"""A logistic distribution over the reals, rounded to the levels {0..L-1}."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

STD_TO_SCALE = math.sqrt(3) / math.pi
"""The scale of a logistic distribution over its standard deviation."""

LOG_SCALE = 60.0
"""Beyond it exp leaves float32, and gradients are NaN."""


@dataclass(frozen=True)
class LogisticBins:
    """p(x = l): the mass of Logistic(location, 1 / steepness) between l - 1/2 and l + 1/2; the outermost bins are open.

    All in units of levels, in which edges are exact and those of neighbours the same number: so the bins sum to one however
    steep they are.

    Attributes:
        location: tensor of any shape.
        steepness: 1 / scale, a tensor that broadcasts with it.
        levels: L.
    """

    location: Tensor
    steepness: Tensor
    levels: int

    @classmethod
    def of(cls, location: Tensor, log_scale: Tensor, levels: int) -> LogisticBins:
        """From units in which the levels are equally spaced from -1 to 1; log-scales are kept within -60 and 60."""
        per_level, log_scale = 2 / (levels - 1), log_scale.clamp(-LOG_SCALE, LOG_SCALE)
        return cls((location + 1) / per_level, per_level * torch.exp(-log_scale), levels)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), nats, for levels that broadcast with the location.

        sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^(a - b)), where b - a is the steepness: a sum of logarithms
        without cancellation, in the tails too.
        """
        lowest, highest, x = x == 0, x == self.levels - 1, x.to(self.location.dtype)
        below = F.logsigmoid((x + 0.5 - self.location) * self.steepness)
        above = F.logsigmoid((self.location - (x - 0.5)) * self.steepness)
        width = torch.log(-torch.expm1(-self.steepness))
        closed = torch.where(lowest | highest, 0.0, width)
        return below.masked_fill(highest, 0.0) + above.masked_fill(lowest, 0.0) + closed

    def quantile(self, u: Tensor) -> Tensor:
        """The level, in the location's dtype, below which u in [0, 1) of the mass lies."""
        at = self.location + torch.logit(u.to(self.location.dtype)) / self.steepness
        return at.round().clamp(0, self.levels - 1)

    def mode(self) -> Tensor:
        """The most probable level, in the location's dtype: the one nearest to the location, or an open bin."""
        nearest = self.location.round().clamp(0, self.levels - 1)
        candidates = torch.stack([nearest, torch.zeros_like(nearest), torch.full_like(nearest, self.levels - 1)])
        best = self.log_prob(candidates).argmax(0, keepdim=True)
        return candidates.gather(0, best)[0]

    def mean(self) -> Tensor:
        """E[x] = sum_l P(x > l), in levels."""
        total = torch.zeros_like(self.location * self.steepness)
        for above in self.exceeding():
            total = total + above
        return total

    def exceeding(self) -> Iterator[Tensor]:
        """P(x > l) for l = 0..L-2; one after the other, for the memory that 256 of them take."""
        for level in range(self.levels - 1):
            yield torch.sigmoid((self.location - (level + 0.5)) * self.steepness)
