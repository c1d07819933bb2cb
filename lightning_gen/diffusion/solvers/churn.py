"""Churn: fresh noise before a deterministic step, which the step then takes off with the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource

LARGEST_GAMMA = math.sqrt(2) - 1
"""More would add more noise to x than it holds."""


@dataclass(frozen=True)
class Churn:
    """Raises sigma / alpha by the factor 1 + gamma before a step (Karras et al. 2022, algorithm 2, lines 4 to 6).

    Where that would pass the schedule's noisiest level it stops there: a network has seen no other.

    Attributes:
        gamma: min(S_churn / steps, sqrt(2) - 1) in the paper's terms; a step's own share, so that a step needs no
            knowledge of the grid. For more steps lower it: at a fixed gamma the error of a step does not vanish.
        s_min, s_max: the range of sigma / alpha in which noise is added.
        s_noise: standard deviation of the fresh noise, slightly above 1 against a denoiser that takes off too much.

    Raises:
        UserError: if gamma is outside [0, sqrt(2) - 1], the range is empty or s_noise is not positive.
    """

    gamma: float
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma <= LARGEST_GAMMA:
            raise UserError(
                f"Churn's gamma (S_churn over the number of steps) lies in [0, sqrt(2) - 1], got {self.gamma}"
            )
        if not 0.0 <= self.s_min <= self.s_max:
            raise UserError(f"Churn needs 0 <= s_min <= s_max, got {self.s_min} and {self.s_max}")
        if self.s_noise <= 0:
            raise UserError(f"Churn's s_noise must be positive, got {self.s_noise}")

    def __call__(self, x: Tensor, at: NoiseLevel, rng: RandomSource) -> tuple[Tensor, NoiseLevel]:
        """(x, level) where the step starts: a draw of q(x_hat | x) at the noisier level, or x and `at` themselves."""
        path, schedule = at.process
        logsnr = (at.logsnr - 2 * math.log1p(self.gamma)).clamp(min=schedule.logsnr_min)
        raised = float(at.logsnr - logsnr) > 1e-9  # less is the rounding of a level that is the noisiest already
        if not (raised and self.s_min <= float(at.sigma / at.alpha) <= self.s_max):
            return x, at
        to = path.at(schedule, schedule.time(logsnr).clamp(max=1.0))
        fresh = to.sigma * (-torch.expm1(to.logsnr - at.logsnr)).sqrt()
        return (to.alpha / at.alpha) * x + self.s_noise * fresh * rng.normal(x.shape, x.dtype), to
