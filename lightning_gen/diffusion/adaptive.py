"""Sampling along the probability flow with steps as long as each sample allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from lightning_gen.diffusion.denoisers import Conditioned
from lightning_gen.diffusion.grids import UniformLogSNR
from lightning_gen.diffusion.guidance import Guidance, Threshold
from lightning_gen.diffusion.ode import DormandPrince
from lightning_gen.diffusion.probability_flow import ProbabilityFlow, unit_scale
from lightning_gen.diffusion.samplers import Sampler, Visited
from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource


@dataclass
class Cost:
    """What samples have cost that took as many evaluations as they needed."""

    samples: int = 0
    evaluations: int = 0

    @property
    def nfe(self) -> float | None:
        """Network evaluations a sample, the mean; None before the first."""
        return self.evaluations / self.samples if self.samples else None


class AdaptiveSampler(Sampler):
    """Dormand-Prince along the probability flow in log-SNR, every sample with steps and error control of its own.

    Tolerances are those of Song et al. 2021 (app. D.4) by default, of x_t in units in which data and noise have variance 1.

    Args:
        rtol, atol: tolerated error of a step.
        points: of the trajectory after the first, equally spaced in log-SNR; interpolated, so they cost nothing.
        max_evaluations: for one sample.
        guidance: wraps the denoiser, or None.
        denoise: end with E[x0 | x], for one more evaluation.
        threshold: keeps E[x0 | x] in the data's range, or None.

    Attributes:
        cost: of all samples since it was made, or since somebody put a new `Cost` there.
    """

    def __init__(
        self,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        points: int = 10,
        max_evaluations: int = 10_000,
        guidance: Guidance | None = None,
        denoise: bool = False,
        threshold: Threshold | None = None,
    ) -> None:
        if points < 1:
            raise UserError(f"AdaptiveSampler's points must be at least 1, the end itself, got {points}")
        super().__init__(guidance, denoise, threshold)
        self.integrator = DormandPrince(rtol, atol, max_evaluations)
        self.rtol, self.atol, self.points, self.max_evaluations = rtol, atol, points, max_evaluations
        self.cost = Cost()

    @property
    def nfe(self) -> int | None:
        return None

    @property
    def mean_nfe(self) -> float | None:
        return self.cost.nfe

    @property
    def description(self) -> str:
        return f"Dormand-Prince at rtol {self.rtol:g} and atol {self.atol:g}"

    def walk(self, denoiser: Conditioned, schedule: NoiseSchedule, x: Tensor, rng: RandomSource) -> Iterator[Visited]:
        times = UniformLogSNR().times(self.points, schedule, x.device)
        levels = [denoiser.path.at(schedule, t) for t in times]
        flow = ProbabilityFlow(denoiser, denoiser.y)
        u = x.double() / unit_scale(levels[0])
        logsnr = [float(level.logsnr) for level in levels]
        (visited,), evaluations = self.integrator.solve(
            lambda rows, time, state: (flow(rows, time, state[0]),), (u,), logsnr
        )
        each = self.guidance.evaluations if self.guidance else 1
        self.cost.samples += len(x)
        self.cost.evaluations += each * (int(evaluations.sum()) + self.denoise * len(x))
        for level, u in zip(levels[1:], visited[1:]):
            yield Visited((unit_scale(level) * u).to(x.dtype), level)
