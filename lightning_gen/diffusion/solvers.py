"""Solvers: one pure step from a noise level to a lower one.

`at` and `to` are the records of the two levels (scalar fields), `state` is whatever a multistep solver carries from one
step to the next (None at first), `rng` serves the noise. Nothing is hidden in the solver, so two trajectories can be
interleaved and a trajectory can be resumed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_gen.diffusion.denoisers import Conditioned
from lightning_gen.diffusion.parameterizations import Prediction
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource


class Solver(ABC):
    """A new solver defines `step` and says how many denoiser evaluations one costs."""

    evaluations: int = 1

    @abstractmethod
    def step(
        self, denoiser: Conditioned, x: Tensor, at: NoiseLevel, to: NoiseLevel, state: Any, rng: RandomSource
    ) -> tuple[Tensor, Any]:
        """(x at the level `to`, state), from x [B, ...] at the level `at`."""


def posterior(x: Tensor, x0: Tensor, at: NoiseLevel, to: NoiseLevel) -> tuple[Tensor, Tensor]:
    """Mean [B, ...] and variance [] of q(x_to | x_at, x0) (Kingma et al. 2021, app. A).

    Written in log-SNR: with c = 1 - exp(logsnr_at - logsnr_to), the variance is sigma_to^2 c. `expm1` keeps small steps.
    """
    c = -torch.expm1(at.logsnr - to.logsnr)
    shrink = (at.alpha / to.alpha) * (to.sigma / at.sigma).square()
    return shrink * x + to.alpha * c * x0, to.sigma.square() * c


class Ancestral(Solver):
    """Samples p(x_s | x_t) = N(posterior mean at x0_hat, variance) (Ho et al. 2020).

    Args:
        variance: "small", that of q(x_s | x_t, x0), right if the data were one point; "large", that of q(x_t | x_s), right
            if they were standard normal. At the last step neither adds noise: the mean is returned.
    """

    def __init__(self, variance: Literal["small", "large"] = "small") -> None:
        if variance not in ("small", "large"):
            raise UserError(f"Ancestral's variance is 'small' or 'large', not {variance!r}")
        self.variance = variance

    def step(
        self, denoiser: Conditioned, x: Tensor, at: NoiseLevel, to: NoiseLevel, state: Any, rng: RandomSource
    ) -> tuple[Tensor, Any]:
        mean, variance = posterior(x, denoiser.at(x, at).x0, at, to)
        if float(to.t) == 0.0:
            return mean, None
        if self.variance == "large":
            variance = variance * (at.sigma / to.sigma).square()
        return mean + variance.sqrt() * rng.normal(x.shape, x.dtype), None


class DDIM(Solver):
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - eta^2 v) eps + eta sqrt(v) z, v the posterior variance (Song et al. 2021, eq. 12).

    eta = 0 is deterministic, eta = 1 the ancestral sampler with the small variance.
    """

    def __init__(self, eta: float = 0.0) -> None:
        if not 0.0 <= eta <= 1.0:
            raise UserError(f"DDIM's eta lies in [0, 1], got {eta}")
        self.eta = eta

    def step(
        self, denoiser: Conditioned, x: Tensor, at: NoiseLevel, to: NoiseLevel, state: Any, rng: RandomSource
    ) -> tuple[Tensor, Any]:
        prediction = denoiser.at(x, at)
        if self.eta == 0.0:
            return to.diffuse(prediction.x0, prediction.eps), None
        # v = sigma_to^2 c, so sigma_to^2 - eta^2 v = sigma_to^2 (1 - eta^2 c)
        share = self.eta**2 * -torch.expm1(at.logsnr - to.logsnr)
        x = to.alpha * prediction.x0 + to.sigma * (1 - share).sqrt() * prediction.eps
        return x + to.sigma * share.sqrt() * rng.normal(x.shape, x.dtype), None


def velocity(prediction: Prediction, level: NoiseLevel) -> Tensor:
    """dx/dt of the probability flow: alpha' x0_hat + sigma' eps_hat (Song et al. 2021, eq. 13, in these coordinates)."""
    return level.dalpha_dt * prediction.x0 + level.dsigma_dt * prediction.eps


class Euler(Solver):
    """Euler's method in t on the probability flow; order 1."""

    def step(
        self, denoiser: Conditioned, x: Tensor, at: NoiseLevel, to: NoiseLevel, state: Any, rng: RandomSource
    ) -> tuple[Tensor, Any]:
        return x + (to.t - at.t) * velocity(denoiser.at(x, at), at), None


class Heun(Solver):
    """The trapezoidal rule in t on the probability flow, explicit; order 2, two evaluations a step (Karras et al. 2022)."""

    evaluations = 2

    def step(
        self, denoiser: Conditioned, x: Tensor, at: NoiseLevel, to: NoiseLevel, state: Any, rng: RandomSource
    ) -> tuple[Tensor, Any]:
        slope = velocity(denoiser.at(x, at), at)
        ahead = velocity(denoiser.at(x + (to.t - at.t) * slope, to), to)
        return x + (to.t - at.t) * 0.5 * (slope + ahead), None
