"""Predictor-corrector sampling: a solver's step, then Langevin dynamics at the level it came to."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from lightning_gen.diffusion.denoisers import Conditioned
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.diffusion.reverse_variances import FixedLarge
from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.diffusion.solvers.ancestral import Ancestral
from lightning_gen.diffusion.solvers.base import Solver, score
from lightning_gen.diffusion.solvers.langevin import langevin_step
from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource


class PredictorCorrector(Solver):
    """Each step of the predictor is followed by Langevin steps of size 2 a (snr |z| / |score|)^2 (Song et al. 2021, app. G).

    a = (alpha_at / alpha_to)^2: 1 on a VE path, 1 - beta on a VP one. The norms are each example's own, where the paper's
    code takes their mean over the batch and so couples its examples.

    Args:
        predictor: any solver whose steps go on from x, as UniPC's do not; by default `Ancestral(FixedLarge())`, which is the
            paper's reverse diffusion of algorithm 2 (VE) and ancestral sampling of eq. 4 (VP). `EulerMaruyama()` is the
            other.
        corrector_steps: Langevin steps after each.
        snr: signal-to-noise ratio of a Langevin step; 0.16 is the paper's for VE on CIFAR-10.
        adaptive: whether the norms are measured. In a few dimensions they must not be: the step is then ruled by how near
            a mode x happens to be, and the density reached is too wide (twice, in the plane at snr 0.16). False takes
            |z| sigma / |eps| with |eps| = |z|: a size that the level alone decides.

    Raises:
        UserError: for no corrector step, an snr that is not positive, or a predictor that would undo the corrector's work.
    """

    def __init__(
        self, predictor: Solver | None = None, corrector_steps: int = 1, snr: float = 0.16, adaptive: bool = True
    ) -> None:
        if corrector_steps < 1:
            raise UserError(f"PredictorCorrector needs at least one corrector step, got {corrector_steps}")
        if snr <= 0:
            raise UserError(f"PredictorCorrector's snr must be positive, got {snr}")
        if getattr(predictor, "continues_from_state", False):
            raise UserError(
                f"{type(predictor).__name__} goes on from its own state and would undo what PredictorCorrector corrects: "
                "give another predictor"
            )
        self.predictor = predictor or Ancestral(FixedLarge())
        self.corrector_steps, self.snr, self.adaptive = corrector_steps, snr, adaptive

    @property
    def evaluations(self) -> int:
        return self.predictor.evaluations + self.corrector_steps

    def total_evaluations(self, steps: int) -> int:
        return self.predictor.total_evaluations(steps) + self.corrector_steps * steps

    def check(self, schedule: NoiseSchedule, knows: Collection[str]) -> None:
        self.predictor.check(schedule, knows)

    def step(
        self, denoiser: Conditioned, x: Tensor, at: NoiseLevel, to: NoiseLevel, state: Any, rng: RandomSource
    ) -> tuple[Tensor, Any]:
        x, state = self.predictor.step(denoiser, x, at, to, state, rng)
        scale = 2 * (at.alpha / to.alpha).square() * self.snr**2
        for _ in range(self.corrector_steps):
            slope, z = score(denoiser.at(x, to), to), rng.normal(x.shape, x.dtype)
            ratio = _norm(z) / _norm(slope) if self.adaptive else to.sigma
            x = langevin_step(x, slope, scale * ratio.square(), z)
        return x, state


def _norm(x: Tensor) -> Tensor:
    """Of each example, [B]."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)
