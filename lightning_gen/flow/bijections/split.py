"""Multiscale flows: half of the channels become latents early, the other half goes on."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from lightning_gen.flow.bijections.base import Factory
from lightning_gen.flow.bijections.coupling import HalfTransformed
from lightning_gen.flow.bijections.coupling_masks import ChannelMask
from lightning_gen.flow.bijections.transforms import Affine, Transform
from lightning_gen.networks.maps import Network


class Split(HalfTransformed):
    """The first half of the channels goes through `rest`; the second is latent, with a prior given the first.

    That prior, learned, is written as the transform that takes its samples to the base's noise: with `Affine` and a
    standard normal base, x_2 ~ N(mean(x_1), scale(x_1)^2) (the multiscale architecture of Dinh et al. 2017, sec. 3.6, with
    the prior of Kingma and Dhariwal's code, 2018). So the latents of all levels together are one vector, distributed as
    the base, and a temperature scales every level's.

    Args:
        rest: makes what the first half goes through.
        network: of the prior, from the first half to the transform's parameters.
        transform: of the second half; `Affine` by default.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        cond_dim: int | None,
        rest: Factory,
        network: Network,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(shape, cond_dim, ChannelMask(tuple(shape)), transform or Affine(), network, (prod(shape),))
        self.rest = rest(self.mask.given_shape, cond_dim)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        given, active = self.mask.split(x)
        latent, log_det = self.change(given, active, cond)
        going, rest = self.rest(given, cond)
        return torch.cat([going.flatten(1), latent.flatten(1)], 1), log_det + rest

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        going, latent = z.split([prod(self.mask.given_shape), prod(self.mask.active_shape)], 1)
        given = self.rest.inverse(going.unflatten(1, self.rest.out_shape), cond)
        return torch.cat([given, self.restore(given, latent.unflatten(1, self.mask.active_shape), cond)], 1)

    def initialize(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        given, active = self.mask.split(x)
        latent, _ = self.change(given, active, cond)
        return torch.cat([self.rest.initialize(given, cond).flatten(1), latent.flatten(1)], 1)
