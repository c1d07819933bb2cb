"""Real vectors around a mean: three ways to come by the standard deviation. Their likelihoods are densities."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.exact_buffers import ExactBuffers
from lightning_gen.over_ranks import sum_over_ranks
from lightning_gen.random_source import RandomSource
from lightning_gen.vae.observations.base import Observation, moments, precise
from lightning_gen.vae.observations.location_scale import LocationScale


class Gaussian(Observation):
    """p(x | z) = N(mean, std^2), elementwise. A new one defines `location_and_log_scale`, in the data's units."""

    integers = False

    def check(self, levels: int | None) -> None:
        if levels is not None:
            raise UserError(
                f"{type(self).__name__} is a density and these data have {levels} levels (a density of integers is no "
                "likelihood): take DiscretizedLogistic as model.init_args.observation"
            )

    @abstractmethod
    def location_and_log_scale(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """The mean [..., *shape] and the log of the standard deviation, which broadcasts with it."""

    def encode(self, x: Tensor) -> Tensor:
        return x.float()

    def terms(self, out: Tensor, x: Tensor) -> Tensor:
        mean, log_std = self.location_and_log_scale(out)
        return -0.5 * ((x - mean) * torch.exp(-log_std)).square() - log_std - 0.5 * math.log(2 * math.pi)

    def sample(self, out: Tensor, rng: RandomSource) -> Tensor:
        mean, log_std = self.location_and_log_scale(out)
        return (mean + log_std.exp() * rng.normal((len(out), *self.shape))).float()

    def mode(self, out: Tensor) -> Tensor:
        return self.mean(out)

    def mean(self, out: Tensor) -> Tensor:
        return self.location_and_log_scale(out)[0].float()


class FixedGaussian(Gaussian):
    """One standard deviation, given.

    Args:
        std: in the data's units, positive.
    """

    def __init__(self, std: float = 1.0) -> None:
        super().__init__()
        if not (0 < std < math.inf):
            raise UserError(f"FixedGaussian needs a positive std, got {std}")
        self.std = std

    def location_and_log_scale(self, out: Tensor) -> tuple[Tensor, Tensor]:
        mean = precise(out)
        return mean, mean.new_full((), math.log(self.std))

    def initial(self, x: Tensor) -> Tensor:
        return moments(x, 0.0)[0]


class LearnedGaussian(LocationScale, Gaussian):
    """The standard deviation is learned with the mean, by its logarithm: for each element, or one of all."""


class CalibratedGaussian(ExactBuffers, Gaussian):
    """One standard deviation, the best for the training's errors: the root of their mean square (Rybkin et al. 2021).

    It is a running mean over about the last `memory` training examples, of all ranks, and no function of the batch whose
    likelihood is asked for; of what was observed within the memory it maximises the likelihood.

    Args:
        memory: examples.
    """

    mse: Tensor
    seen: Tensor

    def __init__(self, memory: int = 10_000) -> None:
        super().__init__()
        if memory < 1:
            raise UserError(f"CalibratedGaussian needs a memory of at least 1 example, got {memory}")
        self.memory = memory
        self.register_buffer("mse", torch.ones(()))
        self.register_buffer("seen", torch.zeros(()))

    def location_and_log_scale(self, out: Tensor) -> tuple[Tensor, Tensor]:
        # an error of exactly 0 has an infinite density
        return precise(out), 0.5 * self.mse.clamp(min=1e-12).log()

    @torch.no_grad()
    def observe(self, out: Tensor, x: Tensor) -> None:
        errors = (x - precise(out).unflatten(0, (-1, len(x)))).square().mean()
        count, total = sum_over_ranks(torch.stack([errors.new_tensor(len(x)), len(x) * errors]).float())
        self.seen.add_(count).clamp_(max=self.memory)
        self.mse.add_((total - count * self.mse) / torch.maximum(self.seen, count))

    def initial(self, x: Tensor) -> Tensor:
        mean, std = moments(x, 0.0)
        self.mse.copy_(std.square().mean())  # until errors are observed: those of the mean
        return mean
