"""Bijections of each number alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_gen.errors import UserError
from lightning_gen.flow.bases import logistic_log_prob
from lightning_gen.flow.bijections.base import Bijection, per_example
from lightning_gen.flow.bijections.transforms import Affine, Transform
from lightning_gen.networks.layers import check_condition, zero


class Logit(Bijection):
    """[0, 1] -> R: logit(alpha + (1 - 2 alpha) x) (Papamakarios et al. 2017, MAF; Dinh et al. 2017 keep
    away from 0 alone).

    Its inverse's tails lie outside of [0, 1], by up to alpha / (1 - 2 alpha).

    Args:
        alpha: keeps away from the ends, where the logit is infinite.
    """

    def __init__(self, shape: tuple[int, ...], cond_dim: int | None = None, alpha: float = 0.05) -> None:
        if not 0 <= alpha < 0.5:
            raise UserError(f"alpha of Logit lies in [0, 0.5), not at {alpha}")
        super().__init__(shape, cond_dim)
        self.alpha = alpha

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        share = 1 - 2 * self.alpha
        inside = self.alpha + share * x
        z = inside.logit()
        return z, per_example(
            math.log(share) - logistic_log_prob(z)
        )  # the logit's derivative is one over the sigmoid's

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        return (z.sigmoid() - self.alpha) / (1 - 2 * self.alpha)


class Elementwise(Bijection):
    """A transform of each number, its parameters free, or linear in the condition: one set a number or one a channel.

    With `Affine` and a standard normal base it is a Gaussian prior with learned means and scales (the layer's transform of
    its samples to the base's noise), which a condition makes class-conditional.

    Args:
        transform: of the numbers.
        per_channel: whether the pixels of a channel share parameters.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        cond_dim: int | None = None,
        transform: Transform | None = None,
        per_channel: bool = True,
    ) -> None:
        super().__init__(shape, cond_dim)
        self.transform = transform or Affine()
        own = (shape[0], *[1] * (len(shape) - 1)) if per_channel else tuple(shape)
        self.constant = nn.Parameter(torch.zeros(self.transform.features, *own))
        self.of_condition = None if cond_dim is None else zero(nn.Linear(cond_dim, self.constant.numel(), bias=False))

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_derivative = self.transform.forward(x, self._params(x, cond))
        return z, per_example(log_derivative)

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.transform.inverse(z, self._params(z, cond))

    def _params(self, x: Tensor, cond: Tensor | None) -> Tensor:
        params = self.constant.to(x.dtype)[None]
        check_condition(cond, wanted=self.of_condition is not None)
        if cond is not None:
            params = params + self.of_condition(cond.to(self.constant.dtype)).to(x.dtype).unflatten(
                1, self.constant.shape
            )
        return params.expand(len(x), -1, *self.shape)
