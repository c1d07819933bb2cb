"""Euler's method in t, of the probability flow and of the reverse SDE."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_gen.diffusion.denoisers import Conditioned
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.diffusion.solvers.base import Solver, velocity
from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource


class Euler(Solver):
    """Euler's method in t on the probability flow; order 1."""

    def step(
        self, denoiser: Conditioned, x: Tensor, at: NoiseLevel, to: NoiseLevel, state: Any, rng: RandomSource
    ) -> tuple[Tensor, Any]:
        return x + (to.t - at.t) * velocity(denoiser.at(x, at), at), None


class EulerMaruyama(Solver):
    """The Euler-Maruyama scheme in t on the reverse SDE (Song et al. 2021, eq. 6); weak order 1.

    dx = [f x - (1 + eta^2) / 2 g^2 score] dt + eta g dw, f = dlog alpha/dt, g^2 = -sigma^2 dlogsnr/dt. Every eta has the
    same marginals (their app. D.1 at eta = 0, 1; Zhang & Chen 2023, eq. 6, between). Its noise enters the last step too:
    set the sampler's `denoise` to take it off.

    Args:
        eta: 1 is the reverse SDE, 0 the probability flow (`Euler`).
    """

    def __init__(self, eta: float = 1.0) -> None:
        if eta < 0:
            raise UserError(f"EulerMaruyama's eta must not be negative, got {eta}")
        self.eta = eta

    def step(
        self, denoiser: Conditioned, x: Tensor, at: NoiseLevel, to: NoiseLevel, state: Any, rng: RandomSource
    ) -> tuple[Tensor, Any]:
        prediction, dt = denoiser.at(x, at), to.t - at.t
        # f x - g^2 score / 2 is the velocity of the flow; what is left of the drift is -eta^2 g^2 score / 2
        excess = -0.5 * self.eta**2 * at.sigma * at.dlogsnr_dt
        mean = x + dt * (velocity(prediction, at) + excess * prediction.eps)
        if self.eta == 0.0:
            return mean, None
        return mean + self.eta * at.sigma * (at.dlogsnr_dt * dt).sqrt() * rng.normal(x.shape, x.dtype), None
