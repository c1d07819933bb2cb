"""A sampler: a solver on a grid of noise levels, with guidance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lightning_gen.diffusion.denoisers import Conditioned, Denoiser
from lightning_gen.diffusion.guidance import Guidance
from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.diffusion.solvers import DDIM, Solver
from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource


class Grid(ABC):
    """Where a solver's steps lie."""

    @abstractmethod
    def times(self, steps: int, schedule: NoiseSchedule) -> Tensor:
        """[steps + 1] times falling from 1 to 0, float64."""


class UniformTime(Grid):
    """Equal steps in t."""

    def times(self, steps: int, schedule: NoiseSchedule) -> Tensor:
        return torch.arange(steps, -1, -1, dtype=torch.float64) / steps


class UniformLogSNR(Grid):
    """Equal steps in log-SNR, whatever the schedule the network was trained with."""

    def times(self, steps: int, schedule: NoiseSchedule) -> Tensor:
        logsnr = torch.linspace(schedule.logsnr_min, schedule.logsnr_max, steps + 1, dtype=torch.float64)
        times = schedule.time(logsnr).clamp(0.0, 1.0)
        times[0], times[-1] = 1.0, 0.0
        return times


class DiffusionSampler:
    """Integrates from noise at t = 1 to the data's end at t = 0.

    Args:
        solver: how a step is made.
        steps: how many.
        grid: where they lie; equal in t by default.
        guidance: wraps the denoiser, or None.
    """

    def __init__(
        self, solver: Solver | None = None, steps: int = 50, grid: Grid | None = None, guidance: Guidance | None = None
    ) -> None:
        if steps < 1:
            raise UserError(f"a sampler needs at least one step, got {steps}")
        self.solver, self.steps, self.grid, self.guidance = solver or DDIM(), steps, grid or UniformTime(), guidance

    @property
    def nfe(self) -> int:
        """Network evaluations a sample costs."""
        return self.steps * self.solver.evaluations * (self.guidance.evaluations if self.guidance else 1)

    def trajectory(
        self, denoiser: Denoiser, schedule: NoiseSchedule, shape: Sequence[int], y: Tensor | None, rng: RandomSource
    ) -> Iterator[Tensor]:
        """x at every level of the grid, [B, ...] float32, from the noise at t = 1 to x at t = 0.

        Log-SNR and the scales are computed in float64, so that the grid itself carries no rounding.
        """
        x = denoiser.path.prior_std * rng.normal(shape)
        times = self.grid.times(self.steps, schedule).to(x.device)
        guided = Conditioned(self.guidance.wrap(denoiser) if self.guidance else denoiser, y)
        levels = [denoiser.path.at(schedule, t) for t in times]
        state = None
        yield x
        for at, to in zip(levels, levels[1:]):
            x, state = self.solver.step(guided, x, at, to, state, rng)
            yield x

    def sample(
        self, denoiser: Denoiser, schedule: NoiseSchedule, shape: Sequence[int], y: Tensor | None, rng: RandomSource
    ) -> Tensor:
        """x at t = 0, [B, ...]; a decoder turns it into data."""
        return deque(self.trajectory(denoiser, schedule, shape, y, rng), maxlen=1).pop()
