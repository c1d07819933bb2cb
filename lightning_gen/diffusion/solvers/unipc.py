"""UniPC: a predictor and a corrector that share one evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_gen.diffusion.denoisers import Conditioned
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.diffusion.solvers.base import Solver, is_last
from lightning_gen.diffusion.solvers.exponential import History, half_logsnr_step, interpolated, moments
from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource

_VARIANTS: dict[str, Callable[[Tensor], Tensor]] = {"bh1": lambda h: h, "bh2": lambda h: -torch.expm1(-h)}


class UniPCState(NamedTuple):
    """What the next step corrects: x [B, ...] that the last step went from, and the evaluations that it used."""

    start: Tensor
    used: History
    history: History


class UniPC(Solver):
    """x0_hat extrapolated from `order` evaluations, then x corrected by the next one (Zhao et al. 2023, algorithms 1 and 2).

    The evaluation that corrects x at a level also serves the step from there, so a step costs one and the last x stays
    uncorrected; order `order` + 1. A trajectory starts with the lower orders, as published.

    Args:
        order: of the predictor: 1, 2 or 3.
        variant: B(h) of the paper: "bh2" is 1 - exp(-h), "bh1" h. It matters only where two evaluations are joined: with
            three or more the solution of their linear system does not depend on it.
        lower_order_final: make the last step one of order 1, for few steps.
    """

    continues_from_state: bool = True
    """A step begins at the x that the step before left in `state`, and what was done to x in between is lost."""

    def __init__(self, order: int = 2, variant: Literal["bh1", "bh2"] = "bh2", lower_order_final: bool = False) -> None:
        if order not in (1, 2, 3):
            raise UserError(f"UniPC's order is 1, 2 or 3, got {order}")
        if variant not in _VARIANTS:
            raise UserError(f"UniPC's variant is one of {', '.join(_VARIANTS)}, got {variant}")
        self.order, self.variant, self.lower_order_final = order, variant, lower_order_final

    def step(
        self,
        denoiser: Conditioned,
        x: Tensor,
        at: NoiseLevel,
        to: NoiseLevel,
        state: UniPCState | None,
        rng: RandomSource,
    ) -> tuple[Tensor, UniPCState]:
        x0, history = denoiser.at(x, at).x0, History()
        if state is not None:
            history = state.history
            joined = History((*state.used.x0, x0), (*state.used.levels, at))
            x = self._advance(state.start, history.levels[0], at, joined)
        history = history.extended(x0, at, keep=self.order)
        used = history.newest(1) if self.lower_order_final and is_last(to) else history
        return self._advance(x, at, to, used), UniPCState(x, used, history)

    def _advance(self, x: Tensor, at: NoiseLevel, to: NoiseLevel, used: History) -> Tensor:
        """x at the level `to`, x0_hat along the step the polynomial through the evaluations used."""
        h = half_logsnr_step(at, to)
        weights = moments(h, len(used.x0))
        if len(weights) == 2:
            weights[1] = 0.5 * _VARIANTS[self.variant](h)
        return (to.sigma / at.sigma) * x + to.alpha * interpolated(weights, used.nodes(at, to), used.x0)
