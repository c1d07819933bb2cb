"""What a solver is: one pure step from a noise level to a lower one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any

from torch import Tensor

from lightning_gen.diffusion.denoisers import Conditioned
from lightning_gen.diffusion.parameterizations import Prediction
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.random_source import RandomSource


class Solver(ABC):
    """A new solver defines `step` and says how many denoiser evaluations one costs."""

    evaluations: int = 1
    """Of the denoiser, that one step costs."""

    def total_evaluations(self, steps: int) -> int:
        """Of the denoiser, along a grid of that many steps."""
        return self.evaluations * steps

    def check(self, schedule: NoiseSchedule, knows: Collection[str]) -> None:  # noqa: B027  most suit any model
        """Raises UserError where a model of that schedule, which `knows` these fields of a Prediction, cannot be solved so."""

    @abstractmethod
    def step(
        self, denoiser: Conditioned, x: Tensor, at: NoiseLevel, to: NoiseLevel, state: Any, rng: RandomSource
    ) -> tuple[Tensor, Any]:
        """(x at the level `to`, state), from x [B, ...] at the level `at`, in x's dtype.

        Args:
            at, to: records of the two levels, scalar fields.
            state: what the step before returned beside x; None at the first.
            rng: serves the noise, in draws of x's shape.
        """


def is_last(to: NoiseLevel) -> bool:
    """Whether a step to that level is the last of its grid."""
    return float(to.t) == 0.0


def velocity(prediction: Prediction, level: NoiseLevel) -> Tensor:
    """dx/dt of the probability flow: alpha' x0_hat + sigma' eps_hat (Song et al. 2021, eq. 13, in these coordinates)."""
    return level.dalpha_dt * prediction.x0 + level.dsigma_dt * prediction.eps


def score(prediction: Prediction, level: NoiseLevel) -> Tensor:
    """grad log q(x_t) = -eps_hat / sigma, of x's shape (Tweedie's formula)."""
    return -prediction.eps / level.sigma
