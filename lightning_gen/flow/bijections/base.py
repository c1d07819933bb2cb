"""What a bijection is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn


class Bijection(nn.Module, ABC):
    """An invertible map z = f(x) that knows log |det df/dx|. A new one is one class; a config names it by its path.

    A constructor begins with (shape, cond_dim), which containers supply; settings follow. States keep the precision they
    come in, float32 at least; parameters may be of lower precision, networks inside may run under autocast.

    Args:
        shape: of an example of x, (C, H, W) or (D,).
        cond_dim: features of the condition; None for none.
        out_shape: of an example of z, with as many numbers; that of x by default.
    """

    def __init__(
        self, shape: tuple[int, ...], cond_dim: int | None = None, out_shape: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        self.shape, self.cond_dim = tuple(shape), cond_dim
        self.out_shape = self.shape if out_shape is None else tuple(out_shape)

    @abstractmethod
    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x [B, *shape], cond [B, cond_dim] or None -> z [B, *out_shape], log |det dz/dx| [B] in nats."""

    @abstractmethod
    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """The x [B, *shape] with forward(x) = z [B, *out_shape]."""

    def initialize(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Data-dependent start on a batch of real data, in place; z of that batch. Called once, without gradients."""
        return self(x, cond)[0]


Factory = Callable[[tuple[int, ...], int | None], Bijection]
"""Makes a bijection from (shape, cond_dim)."""


def per_example(value: Tensor) -> Tensor:
    """[B], the sum of [B, ...] over all but the batch."""
    return value.flatten(1).sum(1)


def along(vector: Tensor, x: Tensor) -> Tensor:
    """A vector [C] as what broadcasts along dimension 1 of x [B, C, ...], in x's dtype."""
    return vector.to(x.dtype).reshape(-1, *[1] * (x.ndim - 2))


def pixels(shape: tuple[int, ...]) -> int:
    """H W of (C, H, W), 1 of (D,): how often what belongs to a channel counts."""
    return math.prod(shape[1:])
