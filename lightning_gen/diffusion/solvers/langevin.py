"""Langevin dynamics: a walk up the score under noise, whose stationary density is q."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from lightning_gen.broadcasting import broadcast
from lightning_gen.diffusion.denoisers import Conditioned
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.diffusion.solvers.base import Solver, score
from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource


def langevin_step(x: Tensor, score: Tensor, step_size: Tensor | float, z: Tensor) -> Tensor:
    """x + eta score + sqrt(2 eta) z, [B, ...]: the unadjusted Langevin algorithm.

    Args:
        score: grad log q(x), of x's shape.
        step_size: eta, [] or [B]; the stationary density is off by O(eta).
        z: standard normal noise of x's shape.
    """
    eta = broadcast(torch.as_tensor(step_size, device=x.device), x).to(x.dtype)
    return x + eta * score + (2 * eta).sqrt() * z


class AnnealedLangevin(Solver):
    """Langevin dynamics at one level after another, x / alpha carried over as it is (Song & Ermon 2019, algorithm 1).

    At a level of noise s = sigma / alpha it takes `steps` steps of size epsilon (s / s_last)^2 / 2 on x / alpha, s_last
    the least of the schedule.

    Args:
        steps: at each level, T of the paper.
        epsilon: in units of the data's variance; the paper's 2e-5 goes with s_last = 0.01.

    Raises:
        UserError: from `check`, where epsilon is so large for the schedule that the dynamics diverge.
    """

    def __init__(self, steps: int = 100, epsilon: float = 2e-5) -> None:
        if steps < 1:
            raise UserError(f"AnnealedLangevin needs at least one step at each level, got {steps}")
        if epsilon <= 0:
            raise UserError(f"AnnealedLangevin's epsilon must be positive, got {epsilon}")
        self.steps, self.epsilon = steps, epsilon

    @property
    def evaluations(self) -> int:
        return self.steps

    def _share(self, schedule: NoiseSchedule) -> float:
        """The step size over sigma^2, at every level."""
        return 0.5 * self.epsilon * math.exp(schedule.logsnr_max)

    def check(self, schedule: NoiseSchedule, knows: Collection[str]) -> None:
        share = self._share(schedule)
        if share >= 2:
            raise UserError(
                f"AnnealedLangevin's epsilon {self.epsilon:g} lets the dynamics diverge: where the schedule ends at log-SNR "
                f"{schedule.logsnr_max:g} it must be below {self.epsilon * 2 / share:.2g}"
            )

    def step(
        self, denoiser: Conditioned, x: Tensor, at: NoiseLevel, to: NoiseLevel, state: Any, rng: RandomSource
    ) -> tuple[Tensor, Any]:
        # of x itself, so alpha^2 times that of x / alpha: epsilon sigma^2 / 2 over s_last^2
        share = self._share(to.process[1])
        x, size = (to.alpha / at.alpha) * x, share * to.sigma.square()
        for _ in range(self.steps):
            x = langevin_step(x, score(denoiser.at(x, to), to), size, rng.normal(x.shape, x.dtype))
        return x, None
