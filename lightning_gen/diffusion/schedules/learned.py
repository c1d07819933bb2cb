"""Schedules that training moves (Kingma et al. 2021, section 4): their ends by the bound, their shape by its variance.

In continuous time the bound depends on the ends alone, so its gradient teaches them. The shape changes nothing but the
variance of the bound's estimate; it follows the gradient of the squared loss, 2 L grad L, which costs no second backward
pass: the gradient of L is multiplied by 2 L on its way into the shape.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from lightning_gen.diffusion.schedules.base import NoiseSchedule, check_order
from lightning_gen.diffusion.schedules.inversion import inverse
from lightning_gen.errors import UserError


@dataclass
class GradientScale:
    """What the gradient into a schedule's shape is multiplied by, [B], one an example: set between forward and backward.

    With `factor = 2 * loss.detach()`, loss [B], the backward pass of loss.sum() gives the shape the gradient of
    (loss ** 2).sum() and everything else its own.
    """

    factor: Tensor | None = None


class _Scaled(torch.autograd.Function):
    """Its input; the gradient [B] is multiplied by the scale's factor [B]."""

    @staticmethod
    def forward(ctx, value: Tensor, scale: GradientScale) -> Tensor:
        ctx.scale = scale
        return value.view_as(value)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.scale.factor is None:
            raise RuntimeError("GradientScale.factor must be set before the backward pass")
        return gradient * ctx.scale.factor.to(gradient), None


class LearnedSchedule(NoiseSchedule):
    """logsnr = high - span shape(t), both ends learned, shape rising from 0 to 1.

    Differentiable in its parameters, in float64 whatever theirs; `time` is not. Reaches what its ends say at the moment:
    training moves them, and the span stays positive. A new one defines `shape`.

    Args:
        logsnr_min, logsnr_max: the ends it starts from (the paper: -5 and 13.3). As attributes, what they are now: floats,
            read from the device, so not for the training step, which has `ends`.
    """

    learned = True

    def __init__(self, logsnr_min: float = -10.0, logsnr_max: float = 10.0) -> None:
        nn.Module.__init__(self)  # the ends are parameters: nothing to pin
        check_order(logsnr_min, logsnr_max)
        self.high = nn.Parameter(torch.tensor(float(logsnr_max)))
        self.raw_span = nn.Parameter(_raw(torch.tensor(float(logsnr_max - logsnr_min))))

    @abstractmethod
    def shape(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The share of the span that is behind at t, from 0 to 1, and its derivative in t; t is float64."""

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Log-SNR at t = 1 and at t = 0: float64 [] each, with their gradients."""
        high = self.high.double()
        return high - _positive(self.raw_span), high

    @property
    def logsnr_min(self) -> float:
        return self.ends[0].item()

    @property
    def logsnr_max(self) -> float:
        return self.ends[1].item()

    def logsnr_and_slope(self, t: Tensor, scale: GradientScale | None = None) -> tuple[Tensor, Tensor]:
        """`logsnr(t)` and `dlogsnr_dt(t)` at once, t [B]; `scale` multiplies the gradient into the shape, not into the ends."""
        share, slope = self.shape(t.double())
        if scale is not None:
            share, slope = _Scaled.apply(share, scale), _Scaled.apply(slope, scale)
        low, high = self.ends
        return (high - (high - low) * share).to(t.dtype), (-(high - low) * slope).to(t.dtype)

    def _logsnr(self, u: Tensor) -> Tensor:
        return self.logsnr_and_slope(u)[0]

    def _dlogsnr_du(self, u: Tensor) -> Tensor:
        return self.logsnr_and_slope(u)[1]

    @torch.no_grad()
    def _time(self, logsnr: Tensor) -> Tensor:
        low, high = self.ends
        return inverse(self.shape, (high - logsnr.double()) / (high - low)).to(logsnr.dtype)


class LearnedLinear(LearnedSchedule):
    """Log-SNR linear in t between two learned ends: the paper's scalar form."""

    def shape(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return t, torch.ones_like(t)


class LearnedMonotone(LearnedSchedule):
    """The paper's monotone network, l1(t) + l3(sigmoid(l2(l1(t)))), weights positive, scaled to its two ends.

    It starts close to linear, its sigmoids evenly spread over [0, 1]: no random number decides where a unit can bend it.

    Args:
        hidden: sigmoids.
    """

    def __init__(self, logsnr_min: float = -10.0, logsnr_max: float = 10.0, hidden: int = 1024) -> None:
        super().__init__(logsnr_min, logsnr_max)
        if hidden < 1:
            raise UserError(f"LearnedMonotone needs at least one hidden unit, got {hidden}")
        self.hidden = hidden
        steepness = torch.full((hidden,), 4.0)
        centres = (2 * torch.arange(hidden) + 1) / hidden - 1  # in (-1, 1), which l1 makes of [0, 1]
        self.raw_weight1 = nn.Parameter(_raw(torch.tensor(2.0)))
        self.bias1 = nn.Parameter(torch.tensor(-1.0))
        self.raw_weight2 = nn.Parameter(_raw(steepness))
        self.bias2 = nn.Parameter(-steepness * centres)
        self.raw_weight3 = nn.Parameter(_raw(torch.full((hidden,), 1 / hidden)))

    def _rise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """By how much the network is higher at t than at 0, and its derivative in t, float64."""
        weight1, weight2, weight3 = (_positive(raw) for raw in (self.raw_weight1, self.raw_weight2, self.raw_weight3))
        start = self.bias1.double() * weight2 + self.bias2.double()  # l2 at t = 0
        climb = weight1 * t[..., None] * weight2  # of l2 since
        unit, rest = torch.sigmoid(start + climb), torch.sigmoid(-start - climb)
        # S(a + c) - S(a) = S(a + c) S(-a) (1 - e^-c) does not cancel where a unit, or the whole network, hardly rises
        bend = (-unit * torch.sigmoid(-start) * torch.expm1(-climb) * weight3).sum(-1)
        return weight1 * t + bend, weight1 * (1 + (unit * rest * weight2 * weight3).sum(-1))

    def shape(self, t: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = self._rise(t)
        whole, _ = self._rise(torch.ones((), dtype=t.dtype, device=t.device))
        return value / whole, slope / whole


def _positive(raw: Tensor) -> Tensor:
    """softplus in float64, itself from 15 on: what it adds there, float32 parameters do not hold."""
    return softplus(raw.double(), threshold=15.0)


def _raw(value: Tensor) -> Tensor:
    """What `_positive` makes this value of."""
    return torch.where(value > 15.0, value, value + torch.log(-torch.expm1(-value)))
