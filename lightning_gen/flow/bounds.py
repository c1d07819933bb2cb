"""Estimators of a flow's likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from lightning_gen.broadcasting import repeated
from lightning_gen.errors import UserError
from lightning_gen.flow.flow_model import FlowModel
from lightning_gen.likelihood import ImportanceWeighted, Likelihood
from lightning_gen.random_source import RandomSource


class LikelihoodEstimator(ABC):
    """A new estimator defines `__call__`."""

    def check(self, integers: bool) -> None:  # noqa: B027  most suit any data
        """Raises UserError for data that it is not for."""

    @abstractmethod
    def __call__(self, model: FlowModel, x: Tensor, cond: Tensor | None, draws: int, rng: RandomSource) -> Likelihood:
        """Of x [B, *shape] in the data's own domain, `draws` draws of noise for each example."""


class ChangeOfVariables(LikelihoodEstimator):
    """log p(x) of real vectors, exactly; of integers the mean over draws of the bound that their dequantization gives.

    Draw k is the source's fork ("draw", k).
    """

    def __call__(self, model: FlowModel, x: Tensor, cond: Tensor | None, draws: int, rng: RandomSource) -> Likelihood:
        if draws < 1:
            raise UserError(f"the bound needs at least one draw, got {draws}")
        draws = draws if model.dequantization is not None else 1  # all alike
        terms: dict[str, Tensor] = {}
        for k in range(draws):
            for name, term in model.terms(x, cond, rng.fork("draw", k)).items():
                terms[name] = terms.get(name, 0.0) + term.double() / draws
        return Likelihood.from_terms(terms, model.kind, x[0].numel())


class ImportanceWeightedBound(LikelihoodEstimator):
    """log 1/K sum_k p(v_k) / q(u_k | x) over K draws of dequantization noise: rises with K to log P(x) (Burda et al. 2016;
    for flows Hoogeboom et al. 2021).

    Args:
        samples: K.
        at_once: samples in one call of the flow; changes speed, memory and rounding only.
    """

    def __init__(self, samples: int = 100, at_once: int = 8) -> None:
        self.weighted = ImportanceWeighted(samples, at_once)
        self.samples, self.at_once = samples, at_once

    def check(self, integers: bool) -> None:
        if not integers:
            raise UserError(
                "the density of real vectors is exact, there is nothing to tighten: choose ChangeOfVariables"
            )

    def __call__(self, model: FlowModel, x: Tensor, cond: Tensor | None, draws: int, rng: RandomSource) -> Likelihood:
        def log_weights(num: int, own: RandomSource) -> Tensor:
            terms = model.terms(repeated(x, num), repeated(cond, num), own)
            return sum(term.double() for term in terms.values()).unflatten(0, (num, len(x)))

        return self.weighted(log_weights, x[0].numel(), draws, rng)
