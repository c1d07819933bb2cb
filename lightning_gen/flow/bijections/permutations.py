"""Orders of the channels. Their log-determinant is 0."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gen.flow.bijections.base import Bijection


class Reverse(Bijection):
    """The channels in the opposite order."""

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.flip(1), x.new_zeros(len(x))

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        return z.flip(1)


class Shuffle(Bijection):
    """The channels in an order that is drawn once, when the layer is made, and kept in checkpoints."""

    def __init__(self, shape: tuple[int, ...], cond_dim: int | None = None) -> None:
        super().__init__(shape, cond_dim)
        self.register_buffer("order", torch.randperm(shape[0]))

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.order), x.new_zeros(len(x))

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        return z.index_select(1, self.order.argsort())
