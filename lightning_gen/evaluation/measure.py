"""Measurements of any GenerativeModule: a Frechet distance, a likelihood. No files, no flags."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_gen.evaluation.extractors import Extractor
from lightning_gen.evaluation.frechet import FeatureStatistics
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import Likelihood
from lightning_gen.random_source import IndexedSource

Advance = Callable[[int], Any]
"""Called with the number of examples just finished."""


def samples(
    module: GenerativeModule,
    indices: range,
    batch_size: int,
    seed: int,
    *,
    sampler: Any | None = None,
    advance: Advance = int,
) -> Iterator[Tensor]:
    """Batches of the samples of these indices. Sample i depends on (seed, i) alone, not on `batch_size`."""
    for part in _parts(indices, batch_size):
        rng = IndexedSource(seed, part, module.device)
        with torch.no_grad():
            drawn = module.sample(len(part), sampler=sampler, rng=rng)
        yield drawn
        advance(len(part))


def _parts(indices: range, size: int) -> Iterator[range]:
    return (indices[start : start + size] for start in range(0, len(indices), size))


def statistics(
    batches: Iterable[Tensor],
    levels: int | None,
    extractor: Extractor,
    *,
    device: torch.device | str = "cpu",
    among_ranks: bool = False,
) -> FeatureStatistics:
    """Sums over the features of all batches, of none too; no rank waits for another before `compute`.

    Args:
        batches: in the data's own domain.
        levels: of the data.
        extractor: of the features.
        device: of the model. Sums stay on a GPU, where NCCL reduces them; elsewhere they are taken on the CPU, in float64.
        among_ranks: whether `compute` is over the batches of all ranks of the process group, or over these alone.
    """
    sums = FeatureStatistics(extractor.num_features, sync_on_compute=among_ranks)
    sums.to(device if torch.device(device).type == "cuda" else "cpu")
    sums.update(torch.empty(0, extractor.num_features))  # torchmetrics warns of a rank that has seen no batch
    for batch in batches:
        sums.update(extractor(batch, levels))
    return sums


@torch.no_grad()
def likelihood(
    module: GenerativeModule,
    examples: Any,
    indices: range,
    batch_size: int,
    seed: int,
    draws: int,
    *,
    estimator: Any | None = None,
    advance: Advance = int,
) -> list[Likelihood]:
    """The log-likelihood of the examples of these indices, batch by batch, on the CPU; their noise is keyed by the index.

    Raises:
        NoLikelihood: the family has none.
    """
    measured = []
    for part in _parts(indices, batch_size):
        index = torch.arange(part.start, part.stop)
        batch = examples.take(index)
        y = None if batch.y is None else batch.y.to(module.device)
        rng = IndexedSource(seed, index, module.device).fork("likelihood")
        found = module.log_likelihood(batch.x.to(module.device), y, estimator=estimator, draws=draws, rng=rng)
        terms = {name: term.cpu() for name, term in found.terms.items()}
        measured.append(Likelihood(found.log_prob.cpu(), found.kind, found.num_dims, terms))
        advance(len(part))
    return measured


def concatenated(parts: Sequence[Likelihood]) -> Likelihood:
    """The likelihood of all examples of the parts, in their order."""
    terms = {name: torch.cat([part.terms[name] for part in parts]) for name in parts[0].terms}
    return Likelihood(torch.cat([part.log_prob for part in parts]), parts[0].kind, parts[0].num_dims, terms)


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
