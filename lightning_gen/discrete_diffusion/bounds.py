"""Estimators of a discrete diffusion's likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_gen.discrete_diffusion.predictor import Predictor
from lightning_gen.discrete_diffusion.processes import Process
from lightning_gen.errors import UserError
from lightning_gen.likelihood import Likelihood
from lightning_gen.random_source import RandomSource


class LikelihoodEstimator(ABC):
    """A new estimator defines `__call__`."""

    def check(self, process: Process) -> None:  # noqa: B027  most suit any process
        """Raises UserError for a process that it is not for. The process has taken its steps already."""

    @abstractmethod
    def __call__(
        self, predictor: Predictor, process: Process, x: Tensor, y: Tensor | None, draws: int, rng: RandomSource
    ) -> Likelihood:
        """Of x [B, *shape] in the data's own domain."""


class VariationalBound(LikelihoodEstimator):
    """log p(x) >= - KL(q(x_T | x) || p(x_T)) - sum_t E KL(q(x_s | x_t, x) || p(x_s | x_t)) + E log p(x | x_1).

    The terms are `prior`, `diffusion` (t = 2..T, or the integral in continuous time) and `reconstruction` (t = 1; nothing in
    continuous time). A draw is one x_t at one step, drawn so that `draws` of them are one in each of as many equal stretches
    of the chain.

    Args:
        exact: take every step of the chain, T evaluations a draw. What is left to chance is x_t given t: nothing for an
            ordered process, whose log-likelihood comes out exactly.
    """

    def __init__(self, exact: bool = False) -> None:
        self.exact = exact

    def check(self, process: Process) -> None:
        if self.exact and process.steps is None:
            raise UserError("continuous time has no steps to sum over: leave out exact, or give the model steps")

    def __call__(
        self, predictor: Predictor, process: Process, x: Tensor, y: Tensor | None, draws: int, rng: RandomSource
    ) -> Likelihood:
        if draws < 1:
            raise UserError(f"the bound needs at least one draw, got {draws}")
        x0 = x.long()
        if self.exact and process.deterministic:
            draws = 1  # all alike

        def nats(t: Tensor, own: RandomSource) -> Tensor:
            """[B]: as if every step of the chain, or all of the integral, were as it is at t."""
            x_t = process.diffuse(x0, t, own)
            log_w = predictor(x_t, process.logsnr(t), y)
            return process.nats(x0, x_t, log_w, t).flatten(1).double().sum(1)

        diffusion, reconstruction = torch.zeros(2, len(x), dtype=torch.float64, device=x.device)
        offset = rng.uniform((len(x),), dtype=torch.float64)
        for k in range(draws):
            own = rng.fork("draw", k)
            if process.steps is not None:
                first = torch.full_like(offset, 1 / process.steps)
                reconstruction -= nats(first, own.fork("first")) / process.steps / draws
            for t, share in self._times(process, k, draws, offset):
                diffusion -= share * nats(t, own) / draws
        terms = {"prior": -process.kl_to_prior(x0), "diffusion": diffusion, "reconstruction": reconstruction}
        kind = "exact" if self.exact and process.deterministic else "elbo"
        return Likelihood.from_terms(terms, kind, process.num_dims)

    def _times(self, process: Process, k: int, draws: int, offset: Tensor) -> Iterator[tuple[Tensor, float]]:
        """Times [B] of draw k beyond the first step, each with the share of the chain that it stands for."""
        u = (k + offset) / draws
        if process.steps is None:
            yield process.times(u), 1.0
            return
        later = process.steps - 1
        if self.exact:
            for i in range(2, process.steps + 1):
                yield torch.full_like(offset, i / process.steps), 1 / process.steps
        elif later:
            yield ((u * later).floor().clamp(max=later - 1) + 2) / process.steps, later / process.steps
