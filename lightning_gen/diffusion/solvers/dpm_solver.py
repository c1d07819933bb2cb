"""DPM-Solver++: multistep exponential integrators of the flow and of the reverse SDE."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gen.diffusion.denoisers import Conditioned
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.diffusion.solvers.base import Solver, is_last
from lightning_gen.diffusion.solvers.exponential import History, half_logsnr_step, interpolated, moments
from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource


class DPMSolverPP(Solver):
    """x0_hat extrapolated from the last `order` evaluations, one a step (Lu et al. 2022b, algorithm 2: "2M"; "3M").

    Order 1 is DDIM (with eta = 1 the ancestral sampler). A trajectory starts with the lower orders, as published: their
    error is of second order, and small where the noise is large. The polynomial's second difference enters in full, as
    order 3 takes it; the authors' code and what descends from it halve it, and are of order 2. Extrapolation suits grids
    even in log-SNR: on one even in t the last steps are far longer than those before, and 3M is worse than 2M.

    Args:
        order: 1, 2 or 3.
        eta: 0 the probability flow; 1 the reverse SDE ("SDE-DPM-Solver++", weak order 2 from order 2 on where the data are
            Gaussian); between and above, as in the k-diffusion library.
        lower_order_final: make the last step one of order 1; its authors do below 15 steps.
    """

    def __init__(self, order: int = 2, eta: float = 0.0, lower_order_final: bool = False) -> None:
        if order not in (1, 2, 3):
            raise UserError(f"DPMSolverPP's order is 1, 2 or 3, got {order}")
        if eta < 0:
            raise UserError(f"DPMSolverPP's eta must not be negative, got {eta}")
        self.order, self.eta, self.lower_order_final = order, eta, lower_order_final

    def step(
        self,
        denoiser: Conditioned,
        x: Tensor,
        at: NoiseLevel,
        to: NoiseLevel,
        state: History | None,
        rng: RandomSource,
    ) -> tuple[Tensor, History]:
        state = (state or History()).extended(denoiser.at(x, at).x0, at, keep=self.order)
        used = state.newest(1) if self.lower_order_final and is_last(to) else state
        h = half_logsnr_step(at, to)
        # noise is taken off 1 + eta times as fast as along the flow, and eta's share of it given back
        weights = moments((1 + self.eta) * h, len(used.x0))
        if len(weights) == 2:
            weights[1] = 0.5 * weights[0]  # as published, where the exact moment of u would do too
        x = (to.sigma / at.sigma) * torch.exp(-self.eta * h) * x
        x = x + to.alpha * interpolated(weights, used.nodes(at, to), used.x0)
        if self.eta > 0.0:
            x = x + to.sigma * (-torch.expm1(-2 * self.eta * h)).sqrt() * rng.normal(x.shape, x.dtype)
        return x, state
