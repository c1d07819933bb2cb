"""Activation normalization."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from lightning_gen.flow.bijections.base import Bijection, along, pixels
from lightning_gen.over_ranks import mean_over_ranks

MIN_STD = 1e-6
"""A channel whose standard deviation is below this share of its mean, or of 1, counts as constant."""


class ActNorm(Bijection):
    """z = (x + shift) exp(log_scale), a number of each for a channel (Kingma and Dhariwal 2018, sec. 3.1).

    `initialize` sets them so that the channels of that batch have mean 0 and variance 1; until then, and in all other
    calls, the layer changes nothing of itself. The moments are means over all ranks. A channel that is constant in that
    batch says nothing of its scale, which starts at 1; a warning names it.
    """

    def __init__(self, shape: tuple[int, ...], cond_dim: int | None = None) -> None:
        super().__init__(shape, cond_dim)
        self.shift = nn.Parameter(torch.zeros(shape[0]))
        self.log_scale = nn.Parameter(torch.zeros(shape[0]))

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_scale = along(self.log_scale, x)
        z = (x + along(self.shift, x)) * log_scale.exp()
        return z, (log_scale.sum() * pixels(self.shape)).expand(len(x))

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        return z * (-along(self.log_scale, z)).exp() - along(self.shift, z)

    @torch.no_grad()
    def initialize(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        values = x.double().transpose(0, 1).flatten(1)
        mean, square = mean_over_ranks(torch.stack([values.mean(1), values.square().mean(1)]))
        std = (square - mean.square()).clamp(min=0).sqrt()
        constant = std < MIN_STD * mean.abs().clamp(min=1)
        if constant.any():
            numbers = ", ".join(str(channel) for channel in constant.nonzero().flatten().tolist())
            warnings.warn(
                f"ActNorm: channel {numbers} of shape {list(self.shape)} is constant in the first batch, and its scale starts "
                "at 1: if it is constant in all the data, leave it out",
                stacklevel=2,
            )
        std = std.where(~constant, 1.0)
        self.shift.copy_(-mean)
        self.log_scale.copy_(-std.log())
        return self(x, cond)[0]
