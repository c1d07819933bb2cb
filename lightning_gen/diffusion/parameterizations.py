"""What the network predicts: out = a x0 + b eps, one linear map at each noise level."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gen.diffusion.paths import NoiseLevel, broadcast


class Prediction(NamedTuple):
    """What a denoiser says of x_t: E[x0 | x_t] and E[eps | x_t], of x_t's shape, tied by x_t = alpha x0 + sigma eps.

    `variance` is the reverse process's own, where a network has learned one.
    """

    x0: Tensor
    eps: Tensor
    variance: Tensor | None = None


class Parameterization(ABC):
    """A new parameterization defines `coefficients`."""

    @abstractmethod
    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(a, b) of out = a x0 + b eps, each [B] or []."""

    def target(self, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """What the network should output, of x0's shape."""
        a, b = self.coefficients(level)
        return broadcast(a, x0) * x0 + broadcast(b, x0) * eps

    def output_gain(self, level: NoiseLevel) -> Tensor:
        """d out / d eps at fixed x_t: b - a sigma / alpha. An error of eps_hat times this is the error of the output."""
        a, b = self.coefficients(level)
        return b - a * level.sigma / level.alpha

    def to_prediction(self, out: Tensor, x_t: Tensor, level: NoiseLevel) -> Prediction:
        """Solves [alpha sigma; a b] (x0, eps) = (x_t, out), both unknowns by one 2x2 inverse.

        `singular_at` tells beforehand where there is no solution; `GaussianDiffusion.check` refuses it.
        """
        a, b = self.coefficients(level)
        determinant = level.alpha * b - level.sigma * a
        inverse = [broadcast(c / determinant, x_t) for c in (b, level.sigma, level.alpha, a)]
        return Prediction(inverse[0] * x_t - inverse[1] * out, inverse[2] * out - inverse[3] * x_t)

    def singular_at(self, level: NoiseLevel, tolerance: float = 1e-4) -> bool:
        """Whether the 2x2 system loses x0 or eps: |alpha b - sigma a| small beside the size of its rows."""
        a, b = self.coefficients(level)
        rows = torch.hypot(level.alpha, level.sigma) * torch.hypot(a, b)
        return bool(((level.alpha * b - level.sigma * a).abs() <= tolerance * rows).any())


class NoisePrediction(Parameterization):
    """out = eps (Ho et al. 2020)."""

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(level.alpha), torch.ones_like(level.alpha)


class DataPrediction(Parameterization):
    """out = x0."""

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return torch.ones_like(level.alpha), torch.zeros_like(level.alpha)


class VPrediction(Parameterization):
    """out = v = alpha eps - sigma x0 (Salimans & Ho 2022)."""

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return -level.sigma, level.alpha


class VelocityPrediction(Parameterization):
    """out = dx_t/dt along the path, with t in [0, 1] between the schedule's end points.

    On the linear path with the flow-matching schedule it is eps - x0, up to the constant by which the truncation
    shortens time (Lipman et al. 2023).
    """

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return level.dalpha_dt, level.dsigma_dt
