"""States as the floats that networks take."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_gen.domains import Levels


class Encoding(ABC):
    """A new encoding defines its features and `encode`."""

    @abstractmethod
    def features(self, levels: int, states: int) -> int:
        """F of a component, of that many levels and states (one more where there is a mask)."""

    @abstractmethod
    def encode(self, x_t: Tensor, levels: int, states: int) -> Tensor:
        """Float32 [B, *shape, F] of x_t int64 [B, *shape]."""

    def __call__(self, x_t: Tensor, levels: int, states: int) -> Tensor:
        """Features first, as networks have them: images [B, C, H, W] as [B, C F, H, W], sequences [B, N] as [B, F, N]."""
        encoded = self.encode(x_t, levels, states)
        if x_t.ndim == 4:
            return encoded.permute(0, 1, 4, 2, 3).flatten(1, 2)
        return encoded.movedim(-1, 1)


class OneHot(Encoding):
    """Each state a feature, so that nothing is said of an order."""

    def features(self, levels: int, states: int) -> int:
        return states

    def encode(self, x_t: Tensor, levels: int, states: int) -> Tensor:
        return one_hot(x_t, states).float()


class Ordinal(Encoding):
    """The level in [-1, 1]; where there is a mask, whether it is one beside it, and 0 for its level."""

    def features(self, levels: int, states: int) -> int:
        return 1 if states == levels else 2

    def encode(self, x_t: Tensor, levels: int, states: int) -> Tensor:
        value = Levels(levels).encode(x_t)
        if states == levels:
            return value[..., None]
        masked = x_t == levels
        return torch.stack([value.masked_fill(masked, 0.0), masked.to(value.dtype)], -1)
