"""What training minimises, in nats per example. Its knobs never touch the likelihood that is reported."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.over_ranks import mean_over_ranks
from lightning_gen.random_source import RandomSource
from lightning_gen.vae.latent_model import LatentModel, Pass


class Objective(ABC):
    """A new objective defines `__call__`, and `check` where it does not suit every model."""

    def check(self, layers: int, splits: bool) -> None:  # noqa: B027  most suit any model
        """Raises UserError for a model of so many layers, whose divergences do or do not split into dimensions."""

    @abstractmethod
    def __call__(
        self, model: LatentModel, x: Tensor, cond: Tensor | None, rng: RandomSource, step: int | None
    ) -> tuple[dict[str, Tensor], Pass]:
        """`loss`, the `distortion` -log p(x | z) and the `rate` (of each layer, where there are several), [B] nats each.

        Args:
            step: optimizer steps made, by which knobs warm up; None where they have.
        """


class ELBO(Objective):
    """distortion + beta rate: minus the evidence lower bound at beta 1 (Kingma and Welling 2014; beta: Higgins et al. 2017).

    Args:
        beta: weight of the rate.
        warmup_steps: optimizer steps in which beta rises from 0 to its value, linearly (Sonderby et al. 2016).
        free_bits: nats of every layer's mean rate over the batch that cost nothing; with `per_dimension` of every
            dimension's (Kingma et al. 2016, eq. 15). The mean is over all ranks (of a micro-batch, where there are several).
            Without gradients, as in validation, the loss has the plain rate: it must not depend on the batch.
        per_dimension: see free_bits.
        samples: of the posterior for each example.
        sampled: take the rate at the samples, in the place of its closed form.
    """

    def __init__(
        self,
        beta: float = 1.0,
        warmup_steps: int = 0,
        free_bits: float = 0.0,
        per_dimension: bool = False,
        samples: int = 1,
        sampled: bool = False,
    ) -> None:
        if beta < 0 or warmup_steps < 0 or free_bits < 0 or samples < 1:
            raise UserError(
                f"an objective has beta, warmup_steps and free_bits of at least 0 and samples of at least 1, got {beta}, "
                f"{warmup_steps}, {free_bits} and {samples}"
            )
        self.beta, self.warmup_steps, self.free_bits = beta, warmup_steps, free_bits
        self.per_dimension, self.samples, self.sampled = per_dimension, samples, sampled

    def check(self, layers: int, splits: bool) -> None:
        if self.per_dimension and (self.sampled or not splits):
            raise UserError(
                "free bits per_dimension need rates in closed form that split into dimensions: choose sampled: false, and of "
                "one layer the posterior Diagonal and the prior StandardNormal, of several TopDownInference"
            )

    def beta_at(self, step: int | None) -> float:
        """The rate's weight at a step."""
        if step is None or step >= self.warmup_steps:
            return self.beta
        return self.beta * step / self.warmup_steps

    def __call__(
        self, model: LatentModel, x: Tensor, cond: Tensor | None, rng: RandomSource, step: int | None
    ) -> tuple[dict[str, Tensor], Pass]:
        passed = model.weigh(
            x, model.infer(x, cond), cond, self.samples, rng.samples(self.samples), sampled=self.sampled
        )
        distortion = -passed.reconstruction.mean(0)
        rates = [layer.mean(0) for layer in passed.kl]  # [B, n] each
        loss = distortion + self.beta_at(step) * self._cost(rates)
        return {"loss": loss, "distortion": distortion, **_named([rate.sum(1) for rate in rates])}, passed

    def _cost(self, rates: list[Tensor]) -> Tensor:
        costs = torch.cat(rates, 1) if self.per_dimension else torch.stack([rate.sum(1) for rate in rates], 1)
        if not self.free_bits or not torch.is_grad_enabled():
            return costs.sum(1)
        whole = mean_over_ranks(costs.detach().mean(0))  # the whole batch decides what is free
        return torch.where(whole > self.free_bits, costs, self.free_bits).sum(1)


class IWAE(Objective):
    """Minus the importance-weighted bound of K samples (Burda et al. 2016, eq. 8).

    Args:
        samples: K.
        dreg: take the doubly reparameterized gradient for the encoder, whose signal does not drown as K rises (Tucker et
            al. 2019, eq. 8). The value of the loss is the same.
    """

    def __init__(self, samples: int = 5, dreg: bool = False) -> None:
        if samples < 1:
            raise UserError(f"IWAE needs at least one sample, got {samples}")
        self.samples, self.dreg = samples, dreg

    def check(self, layers: int, splits: bool) -> None:
        if self.dreg and layers > 1:
            raise UserError(
                "the doubly reparameterized gradient (dreg) is of one layer of latents: with several a posterior's sample "
                "is another's input; choose dreg: false"
            )

    def __call__(
        self, model: LatentModel, x: Tensor, cond: Tensor | None, rng: RandomSource, step: int | None
    ) -> tuple[dict[str, Tensor], Pass]:
        inferred = model.infer(x, cond)
        noise = rng.samples(self.samples)
        passed = model.weigh(x, inferred, cond, self.samples, noise, sampled=True, path_only=self.dreg)
        log_weight = passed.log_weight()
        bound = torch.logsumexp(log_weight, 0) - math.log(self.samples)
        if self.dreg:
            share = log_weight.detach().softmax(0)
            if passed.z[0].requires_grad:
                passed.z[0].register_hook(lambda gradient: share[..., None] * gradient)
            surrogate = (share * log_weight).sum(0)
            bound = bound.detach() + surrogate - surrogate.detach()
        rates = [layer.detach().mean(0) for layer in passed.layers()]
        return {"loss": -bound, "distortion": -passed.reconstruction.detach().mean(0), **_named(rates)}, passed


def _named(rates: list[Tensor]) -> dict[str, Tensor]:
    """Of the layers, z_1's first."""
    if len(rates) == 1:
        return {"rate": rates[0]}
    return {f"rate_{layer}": rate for layer, rate in enumerate(rates, start=1)}
