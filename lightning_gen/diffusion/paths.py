"""Gaussian paths x_t = alpha x0 + sigma eps: the scale that goes with a log-SNR, and the record at one time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lightning_gen.diffusion.schedules import NoiseSchedule


def broadcast(value: Tensor, x: Tensor) -> Tensor:
    """`value`, [] or [B], with trailing ones so that it multiplies x [B, ...]."""
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim)) if value.ndim else value


@dataclass(frozen=True)
class NoiseLevel:
    """Everything the mathematics needs of one time, made once per batch and passed on. Each field is [B] or [].

    Attributes:
        t: time in [0, 1].
        logsnr: log(alpha^2 / sigma^2), nats.
        alpha, sigma: scales of data and noise.
        dlogsnr_dt, dalpha_dt, dsigma_dt: their derivatives in t.
    """

    t: Tensor
    logsnr: Tensor
    alpha: Tensor
    sigma: Tensor
    dlogsnr_dt: Tensor
    dalpha_dt: Tensor
    dsigma_dt: Tensor

    def to(self, dtype: torch.dtype) -> NoiseLevel:
        """The record in another precision."""
        return NoiseLevel(*(getattr(self, f.name).to(dtype) for f in fields(self)))

    def diffuse(self, x0: Tensor, eps: Tensor) -> Tensor:
        """x_t = alpha x0 + sigma eps, of x0's shape."""
        return broadcast(self.alpha, x0) * x0 + broadcast(self.sigma, x0) * eps


class GaussianPath(ABC):
    """The scale of a diffusion. A new path defines `scales`.

    `prior_std` is the standard deviation of the noise a sampler starts from, at t = 1.
    """

    prior_std: float = 1.0

    @abstractmethod
    def scales(self, logsnr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(alpha, sigma, dalpha/dlogsnr, dsigma/dlogsnr) at this log-SNR, each of its shape."""

    def at(self, schedule: NoiseSchedule, t: Tensor) -> NoiseLevel:
        """The record at time t, [B] or [], in t's dtype.

        Computed in float64, a few numbers per example: near the ends float32 loses up to 1e-2 of log-SNR.
        """
        exact = t.double()
        logsnr, slope = schedule.logsnr(exact), schedule.dlogsnr_dt(exact)
        alpha, sigma, dalpha, dsigma = self.scales(logsnr)
        return NoiseLevel(exact, logsnr, alpha, sigma, slope, dalpha * slope, dsigma * slope).to(t.dtype)


class VariancePreserving(GaussianPath):
    """alpha^2 + sigma^2 = 1. `sigmoid(-logsnr)` keeps sigma^2 to 1e-6 where `1 - alpha^2` loses 3 % in float32."""

    def scales(self, logsnr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        alpha2, sigma2 = torch.sigmoid(logsnr), torch.sigmoid(-logsnr)
        alpha, sigma = alpha2.sqrt(), sigma2.sqrt()
        return alpha, sigma, 0.5 * alpha * sigma2, -0.5 * sigma * alpha2


class Linear(GaussianPath):
    """alpha + sigma = 1: the straight path of rectified flow and flow matching."""

    def scales(self, logsnr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        alpha, sigma = torch.sigmoid(0.5 * logsnr), torch.sigmoid(-0.5 * logsnr)
        slope = 0.5 * alpha * sigma
        return alpha, sigma, slope, -slope
