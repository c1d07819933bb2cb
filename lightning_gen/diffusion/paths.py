"""Gaussian paths x_t = alpha x0 + sigma eps: the scale that goes with a log-SNR, and the record at one time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from lightning_gen.broadcasting import broadcast
from lightning_gen.diffusion.schedules import GradientScale, NoiseSchedule
from lightning_gen.errors import UserError


@dataclass(frozen=True)
class NoiseLevel:
    """Everything the mathematics needs of one time, made once per batch and passed on. Each tensor is [B] or [].

    Attributes:
        t: time in [0, 1].
        logsnr: log(alpha^2 / sigma^2), nats.
        alpha, sigma: scales of data and noise.
        dlogsnr_dt, dalpha_dt, dsigma_dt: their derivatives in t.
        process: the path and the schedule it is a level of.
    """

    t: Tensor
    logsnr: Tensor
    alpha: Tensor
    sigma: Tensor
    dlogsnr_dt: Tensor
    dalpha_dt: Tensor
    dsigma_dt: Tensor
    process: tuple[GaussianPath, NoiseSchedule]

    def to(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> NoiseLevel:
        """The record in another precision, or on another device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "process"}
        return replace(self, **{name: value.to(device=device, dtype=dtype) for name, value in tensors.items()})

    def unbind(self) -> list[NoiseLevel]:
        """The records of [N] times, one by one."""
        names = [f.name for f in fields(self) if f.name != "process"]
        rows = zip(*(getattr(self, name).unbind() for name in names))
        return [NoiseLevel(*row, process=self.process) for row in rows]

    def diffuse(self, x0: Tensor, eps: Tensor) -> Tensor:
        """x_t = alpha x0 + sigma eps, of x0's shape."""
        return broadcast(self.alpha, x0) * x0 + broadcast(self.sigma, x0) * eps

    def earlier(self, step: float) -> NoiseLevel:
        """The level at t - step, in the same precision: with this one it is the pair (s, t) of a chain.

        Below t = step there is none; there log-SNR goes on past the schedule's end as far above this level as it is at
        the first step, so that no pair is degenerate.
        """
        path, schedule = self.process
        s = (self.t.double() - step).clamp(min=0.0)
        logsnr = self.logsnr.double() + schedule.logsnr(s) - schedule.logsnr(s + step)
        return path.level(schedule, s, logsnr, schedule.dlogsnr_dt(s)).to(self.t.dtype)


class GaussianPath(ABC):
    """The scale of a diffusion. A new path defines `scales`."""

    @abstractmethod
    def scales(self, logsnr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(alpha, sigma, dalpha/dlogsnr, dsigma/dlogsnr) at this log-SNR, each of its shape."""

    def prior_std(self, last: NoiseLevel) -> Tensor:
        """Standard deviation of the noise a sampler starts from at `last`, the level at t = 1."""
        return torch.ones_like(last.sigma)

    def input_scale(self, level: NoiseLevel) -> Tensor | None:
        """What x_t is multiplied by before a network sees it, [B] or []; None for nothing."""
        return None

    def at(self, schedule: NoiseSchedule, t: Tensor, scale: GradientScale | None = None) -> NoiseLevel:
        """The record at time t, [B] or [], in t's dtype.

        Computed in float64, a few numbers per example: near the ends float32 loses up to 1e-2 of log-SNR.

        Args:
            scale: of the gradient that reaches a learned schedule's shape.
        """
        exact = t.double()
        return self.level(schedule, exact, *schedule.logsnr_and_slope(exact, scale)).to(t.dtype)

    def level(self, schedule: NoiseSchedule, t: Tensor, logsnr: Tensor, dlogsnr_dt: Tensor) -> NoiseLevel:
        """The record of a time whose log-SNR and slope are known already."""
        alpha, sigma, dalpha, dsigma = self.scales(logsnr)
        slopes = (dlogsnr_dt, dalpha * dlogsnr_dt, dsigma * dlogsnr_dt)
        return NoiseLevel(t, logsnr, alpha, sigma, *slopes, process=(self, schedule))


class VariancePreserving(GaussianPath):
    """alpha^2 + sigma^2 = 1. `sigmoid(-logsnr)` keeps sigma^2 to 1e-6 where `1 - alpha^2` loses 3 % in float32."""

    def scales(self, logsnr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        alpha2, sigma2 = torch.sigmoid(logsnr), torch.sigmoid(-logsnr)
        alpha, sigma = alpha2.sqrt(), sigma2.sqrt()
        return alpha, sigma, 0.5 * alpha * sigma2, -0.5 * sigma * alpha2


class VarianceExploding(GaussianPath):
    """alpha = 1: noise of rising scale on data that keep theirs (Song & Ermon 2019; Karras et al. 2022).

    The network sees x_t / sqrt(sigma^2 + data_std^2), of variance 1 at every level.

    Args:
        data_std: standard deviation of x0; pixels in [-1, 1] have about 0.5.
    """

    def __init__(self, data_std: float = 0.5) -> None:
        if data_std <= 0:
            raise UserError(f"VarianceExploding's data_std must be positive, got {data_std}")
        self.data_std = data_std

    def scales(self, logsnr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sigma = torch.exp(-0.5 * logsnr)
        return torch.ones_like(sigma), sigma, torch.zeros_like(sigma), -0.5 * sigma

    def prior_std(self, last: NoiseLevel) -> Tensor:
        return last.sigma

    def input_scale(self, level: NoiseLevel) -> Tensor | None:
        return (level.sigma.square() + self.data_std**2).rsqrt()


class SubVariancePreserving(GaussianPath):
    """sigma = 1 - alpha^2: less noise than VP at equal alpha (Song et al. 2021, eq. 29).

    With r = alpha / sigma, alpha solves r alpha^2 + alpha - r = 0; the root is written without cancellation.
    """

    def scales(self, logsnr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ratio = torch.exp(0.5 * logsnr)
        half = 0.5 + torch.hypot(torch.full_like(ratio, 0.5), ratio)
        alpha, sigma = ratio / half, 1 / half
        slope = 0.5 * sigma * alpha / (sigma + 2 * alpha.square())
        return alpha, sigma, slope, -2 * alpha * slope


class Linear(GaussianPath):
    """alpha + sigma = 1: the straight path of rectified flow and flow matching."""

    def scales(self, logsnr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        alpha, sigma = torch.sigmoid(0.5 * logsnr), torch.sigmoid(-0.5 * logsnr)
        slope = 0.5 * alpha * sigma
        return alpha, sigma, slope, -slope
