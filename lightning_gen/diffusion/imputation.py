"""Imputation: the holes of an instance filled by a sampler that is told what stands around them.

Known are the values x0 where a mask is true. A diffusion learns the joint distribution; an imputer turns a sampler of it
into one of the holes given the rest, with no more training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lightning_gen.diffusion.decoders import Decoder
from lightning_gen.diffusion.denoisers import Conditioned, Denoiser
from lightning_gen.diffusion.guidance import Guidance, Guided, gradient, tilted
from lightning_gen.diffusion.parameterizations import Prediction
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.diffusion.samplers import DiffusionSampler, Visited
from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.diffusion.solvers import Ancestral
from lightning_gen.errors import NonFiniteSamples, UserError
from lightning_gen.masks import as_mask
from lightning_gen.random_source import RandomSource


@dataclass(frozen=True)
class Known:
    """What is known of x0.

    Attributes:
        x0: [B, ...]; what stands in its holes is not looked at.
        mask: bool [B, ...], true where it is known.
    """

    x0: Tensor
    mask: Tensor

    def put(self, x: Tensor, level: NoiseLevel, rng: RandomSource) -> Tensor:
        """x [B, ...] at a level, its known part as q(x_t | x0) has it."""
        noised = level.diffuse(self.x0.to(x.dtype), rng.normal(x.shape, x.dtype))
        return torch.where(self.mask, noised.to(x.dtype), x)


class Imputer(ABC):
    """A new imputer defines `informed`.

    Args:
        sampler: solver, grid and guidance; 100 ancestral steps by default.

    Raises:
        UserError: for a sampler of another kind.
    """

    by_gradient: bool = False
    """Whether it changes the score, as a guidance may."""

    def __init__(self, sampler: DiffusionSampler | None = None) -> None:
        if sampler is not None and not isinstance(sampler, DiffusionSampler):
            raise UserError(
                f"imputation steps through a grid: give it a DiffusionSampler with a solver, not {type(sampler).__name__}"
            )
        self.sampler = sampler or DiffusionSampler(Ancestral(), steps=100)

    @property
    def nfe(self) -> int | None:
        """Network evaluations that an instance costs, at most."""
        return self.sampler.nfe

    @abstractmethod
    def informed(self, known: Known) -> DiffusionSampler:
        """The sampler that knows."""

    def __call__(
        self,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
        decoder: Decoder,
        x: Tensor,
        mask: Tensor,
        y: Tensor | None,
        rng: RandomSource,
    ) -> Tensor:
        """x [B, *shape], in the data's own domain, with its holes filled.

        Raises:
            UserError: for a mask that is not of x's shape or does not broadcast to it.
            NonFiniteSamples: where the sampler diverged.
        """
        mask = as_mask(mask, x)
        known = Known(decoder.encode(x), mask)
        last = deque(self.informed(known).trajectory(denoiser, schedule, x.shape, y, rng), maxlen=1).pop()
        if not torch.isfinite(last.x).all():
            raise NonFiniteSamples(f"{type(self).__name__} with {self.sampler.description} is not finite in the holes")
        return torch.where(mask, x, decoder.decode(last.x, last.level))


class Replacement(Imputer):
    """At every level the known part is its own noised self, and the solver fills in the rest (RePaint, Lugmayr et al. 2022).

    Done once, the holes do not fit well: a step sees what is known only through noise, and never comes back to what it has
    settled. So each stretch of `jump` steps is gone `resamplings` times, noise being put back in between. With the number
    of resamplings the holes come nearer to their conditional distribution: at each level the chain moves to and fro like
    Langevin dynamics.

    Args:
        sampler: solver, grid and guidance. A multistep solver begins anew where noise has been put back.
        resamplings: how often a stretch is gone; 1 is plain replacement (Song et al. 2021, app. I.2).
        jump: steps of a stretch, at least 1.
    """

    def __init__(self, sampler: DiffusionSampler | None = None, resamplings: int = 10, jump: int = 1) -> None:
        super().__init__(sampler)
        if resamplings < 1 or jump < 1:
            raise UserError(f"Replacement needs resamplings and jump of at least 1, got {resamplings} and {jump}")
        self.resamplings, self.jump = resamplings, jump

    @property
    def nfe(self) -> int | None:
        return None if self.sampler.nfe is None else self.resamplings * self.sampler.nfe

    def informed(self, known: Known) -> DiffusionSampler:
        return _Replacing(self.sampler, known, self.resamplings, self.jump)


class _Replacing(DiffusionSampler):
    """A sampler that puts what is known in its place before every step."""

    def __init__(
        self,
        sampler: DiffusionSampler,
        known: Known,
        resamplings: int = 1,
        jump: int = 1,
        guidance: Guidance | None = None,
    ) -> None:
        guidance = guidance or sampler.guidance
        super().__init__(sampler.solver, sampler.steps, sampler.grid, guidance, sampler.denoise, sampler.threshold)
        self.known, self.resamplings, self.jump = known, resamplings, jump

    def walk(self, denoiser: Conditioned, schedule: NoiseSchedule, x: Tensor, rng: RandomSource) -> Iterator[Visited]:
        levels = self.levels(denoiser.path, schedule, x.device)
        state = None
        for first in range(0, self.steps, self.jump):
            stretch = levels[first : first + self.jump + 1]
            for again in range(self.resamplings):
                if again:
                    x, state = renoised(x, stretch[-1], stretch[0], rng), None
                for at, to in pairwise(stretch):
                    x, state = self.solver.step(denoiser, self.known.put(x, at, rng), at, to, state, rng)
                    yield Visited(x, to)


def renoised(x: Tensor, at: NoiseLevel, to: NoiseLevel, rng: RandomSource) -> Tensor:
    """A draw of q(x_to | x_at), `to` being the noisier: ratio x + sigma_to sqrt(1 - e^(logsnr_to - logsnr_at)) z."""
    std = to.sigma * (-torch.expm1(to.logsnr - at.logsnr)).sqrt()
    return ((to.alpha / at.alpha) * x + std * rng.normal(x.shape, x.dtype)).to(x.dtype)


class ReconstructionGuidance(Imputer):
    """The score of p(known | x_t) added to that of x_t (Ho et al. 2022, Video diffusion, sec. 3.1; Chung et al. 2023).

    p(known | x_t) is taken as normal about x0_hat(x_t), with the variance v that x0 would have given x_t if its dimensions
    were independent, v = d^2 sigma^2 / (alpha^2 d^2 + sigma^2) (Song et al. 2023, eq. 7, for d = 1): so
    x0 = x0_hat - scale / 2 sigma^2 / (alpha v) grad |known - x0_hat(x_t)|^2, through the denoiser. With d infinite this is
    Ho et al.'s. The known part of x_t is replaced by its own noised self as well.

    Args:
        sampler: solver, grid and guidance.
        scale: of the gradient.
        data_std: d; pixels in [-1, 1] have about 0.5.
        replace: whether the known part is replaced.
    """

    by_gradient = True

    def __init__(
        self,
        sampler: DiffusionSampler | None = None,
        scale: float = 1.0,
        data_std: float = 0.5,
        replace: bool = True,
    ) -> None:
        super().__init__(sampler)
        if data_std <= 0:
            raise UserError(f"ReconstructionGuidance's data_std must be positive, got {data_std}")
        self.scale, self.data_std, self.replace = scale, data_std, replace

    def informed(self, known: Known) -> DiffusionSampler:
        own, guidance = self.sampler, _Reconstruction(known, self.scale, self.data_std, self.sampler.guidance)
        if self.replace:
            return _Replacing(own, known, guidance=guidance)
        return DiffusionSampler(own.solver, own.steps, own.grid, guidance, own.denoise, own.threshold)


class _Reconstruction(Guidance):
    """Raises the score by the gradient of log p(known | x_t), on top of another guidance."""

    def __init__(self, known: Known, scale: float, data_std: float, inner: Guidance | None) -> None:
        self.known, self.scale, self.data_std, self.inner = known, scale, data_std, inner

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        return Guided(self, self.inner.wrap(denoiser) if self.inner else denoiser)

    def guide(self, denoiser: Denoiser, x_t: Tensor, logsnr: Tensor, y: Tensor | None) -> Prediction:
        found: list[Prediction] = []

        def log_prob(x: Tensor, logsnr: Tensor, y: Tensor | None, x0: Tensor, mask: Tensor) -> Tensor:
            found.append(denoiser(x, logsnr, y))
            precision = 1 / self.data_std**2 + torch.exp(logsnr.double())  # of x0 given x_t: 1 / v
            error = torch.where(mask, x0.to(x.dtype) - found[0].x0, 0.0)
            return -0.5 * precision.to(x.dtype) * error.square().flatten(1).sum(1)

        slope = gradient(log_prob, x_t, logsnr, y, self.known.x0, self.known.mask)
        prediction = Prediction(*(part if part is None else part.detach() for part in found[0]))
        return tilted(prediction, self.scale * slope, logsnr, denoiser.path)
