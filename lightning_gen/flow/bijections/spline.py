"""The monotone rational-quadratic spline."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad, softmax, softplus

from lightning_gen.errors import UserError
from lightning_gen.flow.bijections.transforms import Transform


class _Bin(NamedTuple):
    """The bin in which each number lies: where it begins, its size, its mean slope and the slopes at its ends."""

    left: Tensor
    width: Tensor
    bottom: Tensor
    height: Tensor
    slope: Tensor
    first: Tensor
    last: Tensor


class RationalQuadraticSpline(Transform):
    """Durkan et al. (2019, eqs. 4 to 8): K bins on [-reach, reach], monotone, once differentiable; outside the identity.

    It may be as steep or as flat as its bins: in float32 round trips hold to 1e-4 for raw parameters of up to about 1.

    Args:
        bins: K.
        reach: of the spline. Numbers beyond stay what they are: what is transformed should lie within, as it does after
            an ActNorm.
        least: width, height and slope, the first two as a share of the whole, that a bin has at least.
    """

    def __init__(self, bins: int = 8, reach: float = 4.0, least: float = 1e-3) -> None:
        if bins < 1 or reach <= 0 or not 0 < least * bins < 1 or least >= 1:
            raise UserError(
                f"a spline needs a bin or more, a positive reach, and bins of at least 0 < least < 1 / bins, "
                f"got {bins}, {reach} and {least}"
            )
        self.bins, self.reach, self.least = bins, reach, least
        self.features = 3 * bins - 1

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        inside, within = x.abs() <= self.reach, x.clamp(-self.reach, self.reach)
        b = self._bin(within, params, of=0)
        theta = ((within - b.left) / b.width).clamp(0, 1)
        mixed = theta * (1 - theta)
        bend = b.slope + (b.first + b.last - 2 * b.slope) * mixed
        z = b.bottom + b.height * (b.slope * theta.square() + b.first * mixed) / bend
        rise = b.last * theta.square() + 2 * b.slope * mixed + b.first * (1 - theta).square()
        log_derivative = 2 * (b.slope.log() - bend.log()) + rise.log()
        return torch.where(inside, z, x), torch.where(inside, log_derivative, torch.zeros_like(x))

    def inverse(self, z: Tensor, params: Tensor) -> Tensor:
        inside, within = z.abs() <= self.reach, z.clamp(-self.reach, self.reach)
        b = self._bin(within, params, of=1)
        up = within - b.bottom
        curve = b.first + b.last - 2 * b.slope
        # a theta^2 + b theta + c = 0 (eqs. 6 to 8); the root that does not cancel
        square = b.height * (b.slope - b.first) + up * curve
        linear = b.height * b.first - up * curve
        constant = -b.slope * up
        root = (linear.square() - 4 * square * constant).clamp(min=0).sqrt()
        theta = (-2 * constant / (linear + root)).clamp(0, 1)
        return torch.where(inside, b.left + theta * b.width, z)

    def _bin(self, value: Tensor, params: Tensor, of: int) -> _Bin:
        """The bin of each value on the axis of x (`of` 0) or of z (1)."""
        params = params.movedim(1, -1)
        axes = [self._knots(part) for part in (params[..., : self.bins], params[..., self.bins : 2 * self.bins])]
        knots = axes[of]
        index = (value[..., None] >= knots[..., 1:-1]).sum(-1, keepdim=True)
        # softplus is 1 here: the identity
        even = math.log(math.expm1(1 - self.least))
        slopes = pad(self.least + softplus(params[..., 2 * self.bins :] + even), (1, 1), value=1.0)
        (left, right), (bottom, top) = (
            (knots.gather(-1, index)[..., 0], knots.gather(-1, index + 1)[..., 0]) for knots in axes
        )
        first, last = slopes.gather(-1, index)[..., 0], slopes.gather(-1, index + 1)[..., 0]
        return _Bin(left, right - left, bottom, top - bottom, (top - bottom) / (right - left), first, last)

    def _knots(self, raw: Tensor) -> Tensor:
        """[..., K + 1], rising from -reach to reach."""
        sizes = self.least + (1 - self.least * self.bins) * softmax(raw, -1)
        inner = 2 * self.reach * sizes[..., :-1].cumsum(-1) - self.reach
        return pad(pad(inner, (1, 0), value=-self.reach), (0, 1), value=self.reach)
