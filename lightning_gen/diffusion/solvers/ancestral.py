"""Ancestral sampling: the reverse of the noising, step by step."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor

from lightning_gen.diffusion.denoisers import Conditioned
from lightning_gen.diffusion.parameterizations import posterior_mean
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.diffusion.reverse_variances import FixedSmall, ReverseVariance
from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.diffusion.solvers.base import Solver, is_last
from lightning_gen.random_source import RandomSource


class Ancestral(Solver):
    """Samples p(x_s | x_t) = N(mean of q(x_s | x_t, x0_hat), variance) (Ho et al. 2020, algorithm 2).

    Args:
        variance: of the step; `FixedSmall` by default.
        last_noise: whether the last step adds noise too. Without, its mean is returned; with, the sampler should `denoise`:
            x at t = 0 is then DDPM's x_1, and their last step, a mean, the denoising.
    """

    def __init__(self, variance: ReverseVariance | None = None, last_noise: bool = False) -> None:
        self.variance, self.last_noise = variance or FixedSmall(), last_noise

    def check(self, schedule: NoiseSchedule, knows: Collection[str]) -> None:
        self.variance.check(knows)

    def step(
        self, denoiser: Conditioned, x: Tensor, at: NoiseLevel, to: NoiseLevel, state: Any, rng: RandomSource
    ) -> tuple[Tensor, Any]:
        prediction = denoiser.at(x, at)
        of_x, of_x0 = posterior_mean(at, to)
        mean = of_x * x + of_x0 * prediction.x0
        if is_last(to) and not self.last_noise:
            return mean, None
        return mean + self.variance(prediction, at, to).sqrt().to(x.dtype) * rng.normal(x.shape, x.dtype), None
