"""The likelihood of the model that the probability flow makes of the prior."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lightning_gen.diffusion.bounds import LikelihoodEstimator
from lightning_gen.diffusion.decoders import Decoder, LevelDecoder
from lightning_gen.diffusion.denoisers import Denoiser
from lightning_gen.diffusion.ode import DormandPrince, State
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.diffusion.probability_flow import ProbabilityFlow, unit_scale
from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.errors import UserError
from lightning_gen.likelihood import Likelihood
from lightning_gen.random_source import RandomSource


class Divergence(ABC):
    """The trace of a field's Jacobian. A new one defines `of`, and `probe` if it draws anything."""

    random: bool = False

    def for_dims(self, num_dims: int) -> Divergence:
        """What is taken for data of so many dimensions: itself."""
        return self

    def probe(self, u: Tensor, rng: RandomSource) -> Tensor | None:
        """What is drawn once for a whole trajectory, of u's shape: drawn anew it would not be an ODE. None for nothing."""
        return None

    @abstractmethod
    def of(self, value: Tensor, u: Tensor, probe: Tensor | None) -> Tensor:
        """The divergence in u of `value`, a function of u with its graph, both [A, ...]: [A]."""


class Hutchinson(Divergence):
    """e^T J e with E[e e^T] = 1: unbiased, for one backward pass (Skilling 1989; Hutchinson 1990; Song et al. 2021, eq. 40).

    Args:
        distribution: of e; signs have the smaller variance.
        exact_up_to: dimensions up to which the divergence is taken exactly, as `ExactDivergence` does.
    """

    random = True

    def __init__(self, distribution: Literal["rademacher", "gaussian"] = "rademacher", exact_up_to: int = 0) -> None:
        if distribution not in _PROBES:
            raise UserError(f"Hutchinson's distribution is one of {', '.join(_PROBES)}, not {distribution!r}")
        self.distribution, self.exact_up_to = distribution, exact_up_to

    def for_dims(self, num_dims: int) -> Divergence:
        return ExactDivergence() if num_dims <= self.exact_up_to else self

    def probe(self, u: Tensor, rng: RandomSource) -> Tensor:
        return _PROBES[self.distribution](rng, u.shape).to(u.dtype)

    def of(self, value: Tensor, u: Tensor, probe: Tensor | None) -> Tensor:
        (product,) = torch.autograd.grad(value, u, probe)
        return (product * probe).flatten(1).sum(1)


_PROBES: dict[str, Callable[[RandomSource, torch.Size], Tensor]] = {
    "rademacher": lambda rng, shape: 2 * rng.integers(2, shape) - 1,
    "gaussian": lambda rng, shape: rng.normal(shape),
}


class ExactDivergence(Divergence):
    """The sum of dvalue_i / du_i: as many backward passes as dimensions, so for data of a few."""

    def of(self, value: Tensor, u: Tensor, probe: Tensor | None) -> Tensor:
        columns = value.flatten(1).sum(0)  # examples do not mix: the gradient of the sum holds each example's own
        trace = torch.zeros(len(u), dtype=u.dtype, device=u.device)
        for i, column in enumerate(columns):
            (row,) = torch.autograd.grad(column, u, retain_graph=i + 1 < len(columns))
            trace += row.flatten(1)[:, i]
        return trace


class Dequantization(ABC):
    """Makes continuous points of integers: log p(x) >= E_q[log p(point) + log p(x | point) - log q(point | x)]."""

    @abstractmethod
    def __call__(self, decoder: LevelDecoder, x: Tensor, first: NoiseLevel, rng: RandomSource) -> tuple[Tensor, Tensor]:
        """(A point in x0's units, float64 [B, ...]; log p(x | point) - log q(point | x) there, [B] nats).

        Args:
            first: the level at t = 0.
        """


class GaussianDequantization(Dequantization):
    """The diffusion's own noise at t = 0 and its decoder: z_0 / alpha = x0 + sigma / alpha eps, where the model was trained.

    With it the bound differs from the variational one in the middle term alone (Zheng et al. 2023, sec. 4.2).
    """

    def __call__(self, decoder: LevelDecoder, x: Tensor, first: NoiseLevel, rng: RandomSource) -> tuple[Tensor, Tensor]:
        x0 = decoder.encode(x).double()
        eps = rng.normal(x0.shape).double()
        point = x0 + torch.exp(-0.5 * first.logsnr) * eps
        noise = -0.5 * (eps.square() + math.log(2 * math.pi) - first.logsnr).flatten(1).sum(1)
        return point, decoder.log_prob(x, first.alpha * point, first) - noise


class UniformDequantization(Dequantization):
    """Uniform over the integer's bin, the level at its middle (Theis et al. 2016).

    The standard of continuous models. This bound is loose for one that was trained on the levels themselves and knows that
    there is nothing between them.
    """

    def __call__(self, decoder: LevelDecoder, x: Tensor, first: NoiseLevel, rng: RandomSource) -> tuple[Tensor, Tensor]:
        x0 = decoder.encode(x).double()
        point = x0 + (rng.uniform(x0.shape, dtype=torch.float64) - 0.5) * decoder.spacing
        return point, point.new_full((len(x),), x0[0].numel() * math.log(decoder.spacing))


class ProbabilityFlowLikelihood(LikelihoodEstimator):
    """log p(x) by the change of variables along the probability flow (Song et al. 2021, eq. 39).

    log p(z_0) = log N(z_1; 0, prior_std^2) + the integral of the flow's divergence. The density is that of z_0 / alpha: of the
    data with the noise of t = 0 on them. Vectors are put in as they are; integers are dequantised, and the mean over `draws`
    bounds log p(x) from below in expectation. Every draw has its own noise and probe, keyed by the example and the
    source's fork ("draw", k). What an example gets does not depend on its batch. One flow takes tens to hundreds of
    evaluations with their backward passes.

    Args:
        divergence: by default exact for data of at most 3 dimensions, Hutchinson's estimate for more.
        dequantization: of integers; `GaussianDequantization` by default.
        rtol, atol: tolerated error of a step, in x_t of variance 1 and in nats per dimension.
        max_evaluations: for one flow.
    """

    def __init__(
        self,
        divergence: Divergence | None = None,
        dequantization: Dequantization | None = None,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        max_evaluations: int = 10_000,
    ) -> None:
        self.divergence = divergence or Hutchinson(exact_up_to=3)
        self.dequantization = dequantization or GaussianDequantization()
        self.integrator = DormandPrince(rtol, atol, max_evaluations)
        self.rtol, self.atol, self.max_evaluations = rtol, atol, max_evaluations

    def __call__(
        self,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
        decoder: Decoder,
        x: Tensor,
        y: Tensor | None,
        draws: int,
        rng: RandomSource,
    ) -> Likelihood:
        """Of x [B, ...]; `kind` is `ode`, or `density-ode` for vectors."""
        if draws < 1:
            raise UserError(f"the likelihood needs at least one draw, got {draws}")
        with torch.inference_mode(False):  # in which there are no gradients
            x, y = x.clone(), None if y is None else y.clone()
            ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=x.device)
            first, last = (denoiser.path.at(schedule, t) for t in ends)
            if not (decoder.integers or self.divergence.for_dims(x[0].numel()).random):
                draws = 1  # all are equal
            found: dict[str, Tensor] = {}
            for k in range(draws):
                terms = self._terms(ProbabilityFlow(denoiser, y), decoder, x, first, last, rng.fork("draw", k))
                found = {name: found.get(name, 0.0) + value / draws for name, value in terms.items()}
        kind = "ode" if decoder.integers else "density-ode"
        return Likelihood.from_terms(found, kind, x[0].numel())

    def _terms(
        self,
        flow: ProbabilityFlow,
        decoder: Decoder,
        x: Tensor,
        first: NoiseLevel,
        last: NoiseLevel,
        rng: RandomSource,
    ) -> dict[str, Tensor]:
        """Of one draw."""
        terms = {}
        if isinstance(decoder, LevelDecoder):
            point, terms["dequantization"] = self.dequantization(decoder, x, first, rng)
        else:
            point = decoder.encode(x).double()
        num_dims = point[0].numel()
        scale = first.alpha / unit_scale(first)  # of the coordinates in which the flow runs, beside x0's
        u = scale * point
        estimate = self.divergence.for_dims(num_dims)
        probe = estimate.probe(u, rng)

        def field(rows: Tensor, logsnr: Tensor, state: State) -> State:
            with torch.enable_grad():
                u = state[0].detach().requires_grad_()
                value = flow(rows, logsnr, u)
                divergence = estimate.of(value, u, None if probe is None else probe[rows])
            return value.detach(), divergence / num_dims

        ends = [float(first.logsnr), float(last.logsnr)]
        (u, volume), _ = self.integrator.solve(field, (u, u.new_zeros(len(u))), ends)
        spread = flow.denoiser.path.prior_std(last) / unit_scale(last)
        prior = -0.5 * (u[-1] / spread).square() - spread.log() - 0.5 * math.log(2 * math.pi)
        return {
            "prior": prior.flatten(1).sum(1),
            "divergence": num_dims * (volume[-1] + scale.log()),
            **terms,
        }
