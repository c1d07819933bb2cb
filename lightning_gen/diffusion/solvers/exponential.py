"""Exponential Adams methods: the linear part of the flow exactly, x0_hat by a polynomial through the last evaluations.

In lambda = logsnr / 2, with h the length of a step and u = (lambda - lambda_at) / h in [0, 1], the flow is

    x_to = (sigma_to / sigma_at) x_at + alpha_to integral_0^1 h exp(-h (1 - u)) x0_hat(u) du

(Lu et al. 2022b, prop. 4.1). A solver says through which points the polynomial goes and by which moments it is integrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gen.diffusion.paths import NoiseLevel


class History(NamedTuple):
    """The last evaluations, newest first: x0_hat [B, ...] and the levels they were made at."""

    x0: tuple[Tensor, ...] = ()
    levels: tuple[NoiseLevel, ...] = ()

    def extended(self, x0: Tensor, level: NoiseLevel, keep: int) -> History:
        """With another evaluation in front, and the newest `keep` of all."""
        return History((x0, *self.x0)[:keep], (level, *self.levels)[:keep])

    def newest(self, num: int) -> History:
        """The newest `num`."""
        return History(self.x0[:num], self.levels[:num])

    def nodes(self, at: NoiseLevel, to: NoiseLevel) -> list[Tensor]:
        """u of each level, on the scale in which `at` is 0 and `to` is 1; float64 scalars."""
        return [(level.logsnr - at.logsnr).double() / (to.logsnr - at.logsnr).double() for level in self.levels]


def half_logsnr_step(at: NoiseLevel, to: NoiseLevel) -> Tensor:
    """h = lambda_to - lambda_at, positive; float64 scalar."""
    return 0.5 * (to.logsnr - at.logsnr).double()


def moments(h: Tensor, num: int) -> list[Tensor]:
    """integral_0^1 h exp(-h (1 - u)) u^k du for k < num; float64 scalars.

    By parts, m_k = 1 - k m_{k-1} / h. Small h costs the k-th digits that it takes from the k-th differences they weigh.
    """
    found = [-torch.expm1(-h)]
    for k in range(1, num):
        found.append(1 - k * found[-1] / h)
    return found


def interpolated(moments: Sequence[Tensor], nodes: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """The functional with these moments (its values on 1, u, u^2, ...) of the polynomial through (node, value).

    In Newton's form: divided differences, each weighed by the functional's value on prod_j (u - u_j). Where the values
    are close together, as x0_hat's are, nothing cancels.
    """
    differences, basis = list(values), [torch.ones_like(moments[0])]
    total = moments[0] * values[0]
    for k in range(1, len(nodes)):
        differences = [
            (a - b) / (nodes[j] - nodes[j + k]) for j, (a, b) in enumerate(zip(differences, differences[1:]))
        ]
        # times (u - u_{k-1}): the coefficients of u^0, u^1, ..., u^k
        shifted, scaled = [torch.zeros_like(basis[0]), *basis], [*(nodes[k - 1] * c for c in basis), 0.0]
        basis = [a - b for a, b in zip(shifted, scaled)]
        total = total + sum(c * m for c, m in zip(basis, moments)) * differences[0]
    return total
