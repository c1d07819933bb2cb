"""Estimators of a latent-variable model's likelihood: each a lower bound of log p(x) in expectation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.likelihood import ImportanceWeighted, Likelihood
from lightning_gen.random_source import RandomSource
from lightning_gen.vae.latent_model import LatentModel

ELEMENTS = 1 << 24
"""Numbers that a decoder says in one call, at most, of more samples than one: 64 MiB in float32."""


class LikelihoodEstimator(ABC):
    """A new estimator defines `of`."""

    def check(self, layers: int) -> None:  # noqa: B027  most suit any model
        """Raises UserError for a model of so many layers of latents."""

    def __call__(self, model: LatentModel, x: Tensor, cond: Tensor | None, draws: int, rng: RandomSource) -> Likelihood:
        """Of x [B, *shape] in the data's own domain, `draws` draws for each example."""
        if draws < 1:
            raise UserError(f"the bound needs at least one draw, got {draws}")
        return self.of(model, x, model.infer(x, cond), cond, draws, rng)

    @abstractmethod
    def of(
        self, model: LatentModel, x: Tensor, inferred: object, cond: Tensor | None, draws: int, rng: RandomSource
    ) -> Likelihood:
        """The same, given what the model has inferred of q(z | x)."""


class ElboEstimator(LikelihoodEstimator):
    """The evidence lower bound, E_q log p(x | z) - KL(q || p), the terms `reconstruction` and `kl` (`kl_1`... of layers).

    Draw k is the source's fork ("draw", k).

    Args:
        sampled: take log q - log p at the samples, in the place of the divergence where that has a closed form: more variance.
    """

    def __init__(self, sampled: bool = False) -> None:
        self.sampled = sampled

    def of(
        self, model: LatentModel, x: Tensor, inferred: object, cond: Tensor | None, draws: int, rng: RandomSource
    ) -> Likelihood:
        reconstruction, layers = 0.0, [0.0] * model.num_layers
        for k in range(draws):
            passed = model.weigh(x, inferred, cond, 1, rng.fork("draw", k), sampled=self.sampled)
            reconstruction = reconstruction + passed.reconstruction[0].double() / draws
            layers = [total + layer[0].double() / draws for total, layer in zip(layers, passed.layers())]
        names = ["kl"] if model.num_layers == 1 else [f"kl_{i}" for i in range(1, model.num_layers + 1)]
        terms = {"reconstruction": reconstruction, **{name: -layer for name, layer in zip(names, layers)}}
        kind = "elbo" if model.observation.integers else "density-elbo"
        return Likelihood.from_terms(terms, kind, x[0].numel())


class ImportanceWeightedBound(LikelihoodEstimator):
    """IWAE-K (Burda et al. 2016, eq. 8): rises with K to log p(x); of the K draws of one estimate a term is none.

    Args:
        samples: K; published negative log-likelihoods have 5000.
        at_once: samples in one call of the decoder, or fewer where what it says of them is more than ELEMENTS numbers; changes
            speed, memory and rounding only.
    """

    def __init__(self, samples: int = 100, at_once: int = 20) -> None:
        ImportanceWeighted(samples, at_once)  # refuses
        self.samples, self.at_once = samples, at_once

    def of(
        self, model: LatentModel, x: Tensor, inferred: object, cond: Tensor | None, draws: int, rng: RandomSource
    ) -> Likelihood:
        def log_weights(num: int, own: RandomSource) -> Tensor:
            return model.weigh(x, inferred, cond, num, own, sampled=True).log_weight()

        fit = ELEMENTS // (len(x) * math.prod(model.observation.out_shape))
        weighted = ImportanceWeighted(self.samples, max(1, min(self.at_once, fit)))
        return weighted(log_weights, x[0].numel(), draws, rng, integers=model.observation.integers)


class Refined(LikelihoodEstimator):
    """Another estimator, at a posterior of each example's own: Adam on its parameters from the amortized start.

    What the encoder loses to the best Gaussian of an example, the amortization gap, is taken away (Cremer et al. 2018; Kim
    et al. 2018). Any q gives a bound, as long as the noise it was fitted with is not that of the estimate: it is not.

    Args:
        estimator: of the bound, at the refined posterior.
        steps: of Adam.
        learning_rate: of Adam; halfway to the end it falls to a tenth.
        samples: of the posterior in each step.
    """

    def __init__(
        self,
        estimator: LikelihoodEstimator | None = None,
        steps: int = 100,
        learning_rate: float = 0.02,
        samples: int = 4,
    ) -> None:
        if steps < 1 or samples < 1 or learning_rate <= 0:
            raise UserError(
                f"refinement needs steps and samples of at least 1 and a learning_rate above 0, got {steps}, {samples} and "
                f"{learning_rate}"
            )
        self.estimator = estimator or ElboEstimator()
        self.steps, self.learning_rate, self.samples = steps, learning_rate, samples

    def check(self, layers: int) -> None:
        if layers > 1:
            raise UserError(
                f"Refined refines one layer of latents, this model has {layers}: choose its estimator alone"
            )
        self.estimator.check(layers)

    def of(
        self, model: LatentModel, x: Tensor, inferred: object, cond: Tensor | None, draws: int, rng: RandomSource
    ) -> Likelihood:
        return self.estimator.of(model, x, self.refine(model, x, inferred, cond, rng.fork("refine")), cond, draws, rng)

    def refine(self, model: LatentModel, x: Tensor, inferred: object, cond: Tensor | None, rng: RandomSource) -> object:
        """The posterior after `steps` steps on each example's own bound."""
        with torch.inference_mode(False), torch.enable_grad():  # a Trainer validates in inference mode
            x, cond = x.clone(), None if cond is None else cond.clone()
            start = [p.detach().clone().requires_grad_() for p in inferred.parameters()]
            optimizer = torch.optim.Adam(start, lr=self.learning_rate)
            for step in range(self.steps):
                optimizer.param_groups[0]["lr"] = self.learning_rate * (1.0 if 2 * step < self.steps else 0.1)
                posterior = inferred.with_parameters(*start)
                noise = rng.fork("step", step).samples(self.samples)
                passed = model.weigh(x, posterior, cond, self.samples, noise, sampled=False)
                # a sum: no example's gradient depends on the others of its batch
                bound = passed.reconstruction.mean(0).sum() - sum(layer.mean(0).sum() for layer in passed.layers())
                gradients = torch.autograd.grad(-bound, start)
                for parameter, gradient in zip(start, gradients):
                    parameter.grad = gradient
                optimizer.step()
        return inferred.with_parameters(*(p.detach() for p in start))
