"""Heun's method: the trapezoidal rule on the probability flow, explicit."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_gen.diffusion.denoisers import Conditioned
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.diffusion.solvers.base import Solver, velocity
from lightning_gen.diffusion.solvers.churn import Churn
from lightning_gen.random_source import RandomSource


class Heun(Solver):
    """The trapezoidal rule in t on the probability flow, explicit; order 2, two evaluations a step (Karras et al. 2022).

    Args:
        churn: fresh noise before each step, or None for the deterministic sampler.
    """

    evaluations = 2

    def __init__(self, churn: Churn | None = None) -> None:
        self.churn = churn

    def step(
        self, denoiser: Conditioned, x: Tensor, at: NoiseLevel, to: NoiseLevel, state: Any, rng: RandomSource
    ) -> tuple[Tensor, Any]:
        if self.churn is not None:
            x, at = self.churn(x, at, rng)
        return self.trapezoid(denoiser, x, at, to), None

    def trapezoid(self, denoiser: Conditioned, x: Tensor, at: NoiseLevel, to: NoiseLevel) -> Tensor:
        """x at the level `to`, by the mean of the slopes at both ends."""
        slope = velocity(denoiser.at(x, at), at)
        ahead = velocity(denoiser.at(x + (to.t - at.t) * slope, to), to)
        return x + (to.t - at.t) * 0.5 * (slope + ahead)


class KarrasHeun(Heun):
    """The trapezoidal rule on x / alpha in sigma / alpha, whose slope is eps (Karras et al. 2022, algorithms 1 and 2).

    EDM's sampler, whatever the path and the schedule: with the grid `KarrasRho`, the sampler's `denoise` in place of
    their last step (Euler's, to sigma = 0), and `Churn` for the stochastic one. Their n steps are n - 1 of these.
    """

    def trapezoid(self, denoiser: Conditioned, x: Tensor, at: NoiseLevel, to: NoiseLevel) -> Tensor:
        first = denoiser.at(x, at)
        euler = to.diffuse(first.x0, first.eps)
        rise = to.sigma - to.alpha * (at.sigma / at.alpha)
        return euler + 0.5 * rise * (denoiser.at(euler, to).eps - first.eps)
