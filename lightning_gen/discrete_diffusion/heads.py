"""What a network's output says of each component's level."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_gen.logistic_bins import LogisticBins


class Head(ABC):
    """A new head defines its numbers of a component and what they mean."""

    @abstractmethod
    def numbers(self, levels: int) -> int:
        """Of the output, for each component."""

    @abstractmethod
    def log_probs(self, numbers: Tensor, x_t: Tensor, levels: int) -> Tensor:
        """log w, [B, *shape, L], of numbers [B, *shape, n] in x_t's places, int64 [B, *shape]; L is the mask."""

    def __call__(self, out: Tensor, x_t: Tensor, levels: int) -> Tensor:
        """Of an output with features first: images [B, C n, H, W], sequences [B, n, N]."""
        n = self.numbers(levels)
        images = x_t.ndim == 4
        numbers = out.unflatten(1, (x_t.shape[1], n)).movedim(2, -1) if images else out.movedim(1, -1)
        return self.log_probs(numbers, x_t, levels)


class Categorical(Head):
    """A logit of each level."""

    def numbers(self, levels: int) -> int:
        return levels

    def log_probs(self, numbers: Tensor, x_t: Tensor, levels: int) -> Tensor:
        return numbers.log_softmax(-1)


class DiscretizedLogistic(Head):
    """A logistic distribution rounded to the levels: two numbers, whatever L, and neighbours are alike.

    Its location is x_t's level in [-1, 1] (0 for a mask) and what the network adds to it (Austin et al. 2021, who
    fold it into tanh).

    Args:
        log_scale: where the logarithm of the scale starts, in the units of [-1, 1].
    """

    def __init__(self, log_scale: float = -2.0) -> None:
        self.log_scale = log_scale

    def numbers(self, levels: int) -> int:
        return 2

    def log_probs(self, numbers: Tensor, x_t: Tensor, levels: int) -> Tensor:
        location, log_scale = numbers.unbind(-1)
        here = (x_t.to(numbers.dtype) * (2 / (levels - 1)) - 1).masked_fill(x_t == levels, 0.0)
        bins = LogisticBins.of((location + here)[..., None], (log_scale + self.log_scale)[..., None], levels)
        return bins.log_prob(torch.arange(levels, device=numbers.device))
