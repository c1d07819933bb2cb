"""Samplers: from noise at t = 1 to the data's end at t = 0, with guidance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_gen.diffusion.denoisers import Conditioned, Denoiser
from lightning_gen.diffusion.grids import Grid, UniformTime
from lightning_gen.diffusion.guidance import Guidance, Threshold, Thresholded
from lightning_gen.diffusion.paths import GaussianPath, NoiseLevel
from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.diffusion.solvers import DDIM, Solver
from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource


class Visited(NamedTuple):
    """A point of a trajectory: x [B, ...] and the level it is at (scalar fields, float64)."""

    x: Tensor
    level: NoiseLevel


class Sampler(ABC):
    """A new sampler defines `walk` and says what it costs.

    Args:
        guidance: wraps the denoiser, or None.
        denoise: end with E[x0 | x] instead of x at the schedule's last level, for one more evaluation: it takes off the
            noise that is left there (Jolicoeur-Martineau et al. 2021; the last step to sigma = 0 of Karras et al. 2022).
        threshold: keeps E[x0 | x] in the data's range after guidance, or None. Likelihoods never see it.
    """

    def __init__(
        self, guidance: Guidance | None = None, denoise: bool = False, threshold: Threshold | None = None
    ) -> None:
        self.guidance, self.denoise, self.threshold = guidance, denoise, threshold

    @property
    @abstractmethod
    def nfe(self) -> int | None:
        """Network evaluations a sample costs; None where that depends on the sample."""

    @property
    def mean_nfe(self) -> float | None:
        """The mean over the samples drawn so far, where `nfe` is None."""
        return None

    @property
    def further_models(self) -> list[nn.Module]:
        """Models beside the sampled one whose weights decide what is drawn: the guidance's."""
        model = self.guidance.guide_model if self.guidance is not None else None
        return [] if model is None else [model]

    @property
    @abstractmethod
    def description(self) -> str:
        """In a few words, for messages."""

    def check(self, schedule: NoiseSchedule, knows: Collection[str]) -> None:  # noqa: B027  most suit any model
        """Raises UserError where a model of that schedule, which `knows` these fields of a Prediction, cannot be sampled so."""

    @abstractmethod
    def walk(self, denoiser: Conditioned, schedule: NoiseSchedule, x: Tensor, rng: RandomSource) -> Iterator[Visited]:
        """The points after the first, x [B, ...] float32 at t = 1."""

    def guided(self, denoiser: Denoiser, y: Tensor | None) -> Conditioned:
        """The denoiser that is followed, counting its evaluations."""
        if self.guidance is not None:
            denoiser = self.guidance.wrap(denoiser)
        return Conditioned(Thresholded(self.threshold, denoiser) if self.threshold is not None else denoiser, y)

    def trajectory(
        self, denoiser: Denoiser, schedule: NoiseSchedule, shape: Sequence[int], y: Tensor | None, rng: RandomSource
    ) -> Iterator[Visited]:
        """From the noise at t = 1 to t = 0, as the solver goes; with `denoise` the last point holds E[x0 | x] alpha.

        Log-SNR and the scales are computed in float64, so that the grid itself carries no rounding.
        """
        noise = rng.normal(shape)
        first = denoiser.path.at(schedule, torch.ones((), dtype=torch.float64, device=noise.device))
        x = denoiser.path.prior_std(first) * noise
        guided = self.guided(denoiser, y)
        last = Visited(x, first)
        yield last
        for point in self.walk(guided, schedule, x, rng):
            yield point
            last = point
        if self.denoise:
            x0 = guided.at(*last).x0
            yield Visited((last.level.alpha * x0).to(x0.dtype), last.level)

    def sample(
        self, denoiser: Denoiser, schedule: NoiseSchedule, shape: Sequence[int], y: Tensor | None, rng: RandomSource
    ) -> Tensor:
        """x at t = 0, [B, ...]; a decoder turns it into data."""
        return deque(self.trajectory(denoiser, schedule, shape, y, rng), maxlen=1).pop().x


class DiffusionSampler(Sampler):
    """A solver on a grid of noise levels.

    Args:
        solver: how a step is made.
        steps: how many.
        grid: where they lie; equal in t by default.
        guidance: wraps the denoiser, or None.
        denoise: end with E[x0 | x], for one more evaluation.
        threshold: keeps E[x0 | x] in the data's range, or None.
    """

    def __init__(
        self,
        solver: Solver | None = None,
        steps: int = 50,
        grid: Grid | None = None,
        guidance: Guidance | None = None,
        denoise: bool = False,
        threshold: Threshold | None = None,
    ) -> None:
        if steps < 1:
            raise UserError(f"a sampler needs at least one step, got {steps}")
        super().__init__(guidance, denoise, threshold)
        self.solver, self.steps, self.grid = solver or DDIM(), steps, grid or UniformTime()

    @property
    def nfe(self) -> int | None:
        evaluations = self.solver.total_evaluations(self.steps) + self.denoise
        return evaluations * (self.guidance.evaluations if self.guidance else 1)

    @property
    def description(self) -> str:
        return f"{type(self.solver).__name__} in {self.steps} steps"

    def check(self, schedule: NoiseSchedule, knows: Collection[str]) -> None:
        self.solver.check(schedule, knows)

    def levels(self, path: GaussianPath, schedule: NoiseSchedule, device: torch.device) -> list[NoiseLevel]:
        """The grid's levels, scalar fields in float64, from noise to data."""
        return path.at(schedule, self.grid.times(self.steps, schedule, device)).unbind()

    def walk(self, denoiser: Conditioned, schedule: NoiseSchedule, x: Tensor, rng: RandomSource) -> Iterator[Visited]:
        levels, state = self.levels(denoiser.path, schedule, x.device), None
        for at, to in zip(levels, levels[1:]):
            x, state = self.solver.step(denoiser, x, at, to, state, rng)
            yield Visited(x, to)
