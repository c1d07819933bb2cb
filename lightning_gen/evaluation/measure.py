"""Measurements of any GenerativeModule: a Frechet distance, a likelihood. No files, no flags."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lightning_gen.errors import NoLikelihood
from lightning_gen.evaluation.extractors import Extractor
from lightning_gen.evaluation.frechet import FeatureStatistics, Moments
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import Likelihood
from lightning_gen.random_source import IndexedSource

Advance = Callable[[int], Any]
"""Called with the number of examples just finished."""


def samples(
    module: GenerativeModule,
    num: int,
    batch_size: int,
    seed: int,
    *,
    sampler: Any | None = None,
    advance: Advance = int,
) -> Iterator[Tensor]:
    """Batches of samples 0..num-1. Sample i depends on (seed, i) alone, not on `batch_size`."""
    for start in range(0, num, batch_size):
        indices = range(start, min(start + batch_size, num))
        rng = IndexedSource(seed, indices, module.device)
        with torch.no_grad():
            drawn = module.sample(len(indices), sampler=sampler, rng=rng)
        yield drawn
        advance(len(indices))


def moments(batches: Iterator[Tensor], levels: int | None, extractor: Extractor) -> Moments:
    """Mean and covariance of the features of all batches."""
    statistics = FeatureStatistics(extractor.num_features)
    for batch in batches:
        statistics.update(extractor(batch, levels).cpu())
    return statistics.compute()


@torch.no_grad()
def likelihood(
    module: GenerativeModule,
    examples: Any,
    batch_size: int,
    seed: int,
    draws: int,
    *,
    estimator: Any | None = None,
    advance: Advance = int,
) -> Likelihood | None:
    """The log-likelihood of every example of a split, once, its noise keyed by the example; None if there is none."""
    parts = []
    for index in torch.arange(len(examples)).split(batch_size):
        batch = examples.take(index)
        y = None if batch.y is None else batch.y.to(module.device)
        rng = IndexedSource(seed, index, module.device).fork("likelihood")
        try:
            part = module.log_likelihood(batch.x.to(module.device), y, estimator=estimator, draws=draws, rng=rng)
        except NoLikelihood:
            return None
        parts.append(part)
        advance(len(index))
    terms = {name: torch.cat([part.terms[name].cpu() for part in parts]) for name in parts[0].terms}
    return Likelihood(torch.cat([part.log_prob.cpu() for part in parts]), parts[0].kind, parts[0].num_dims, terms)


def likelihood_metrics(measured: Likelihood) -> dict[str, float]:
    """Means over the examples with their standard errors: nats, bits/dim where they are of integers, and the terms."""
    name = "elbo_nats" if measured.kind.endswith("elbo") else "log_prob_nats"
    columns = {name: measured.log_prob, **{f"{term}_nats": value for term, value in measured.terms.items()}}
    if not measured.kind.startswith("density"):
        columns["bits_per_dim"] = measured.bits_per_dim()
    metrics = {}
    for key, column in columns.items():
        metrics[key] = float(column.mean())
        metrics[f"{key}_se"] = float(column.std()) / math.sqrt(len(column)) if len(column) > 1 else math.nan
    return metrics
