"""DDIM: x0 and eps are kept, the level changes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_gen.diffusion.denoisers import Conditioned
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.diffusion.solvers.base import Solver
from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource


class DDIM(Solver):
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - eta^2 v) eps + eta sqrt(v) z, v the posterior variance (Song et al. 2021, eq. 12).

    eta = 0 is deterministic (Euler's method on x / alpha in sigma / alpha), eta = 1 the ancestral sampler with the small
    variance; order 1. Consistent annealed sampling (Jolicoeur-Martineau et al. 2021) is this update at an eta between.
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
