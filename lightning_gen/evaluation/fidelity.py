"""Sample quality in the features of an extractor: all distances and shares of one set to the reference."""

from __future__ import annotations

import math

import torch

from lightning_gen.errors import UserError
from lightning_gen.evaluation.extractors import Extractor
from lightning_gen.evaluation.extrapolation import frechet_at_infinity
from lightning_gen.evaluation.features import Features
from lightning_gen.evaluation.frechet import Reference, frechet_distance
from lightning_gen.evaluation.inception_score import inception_score
from lightning_gen.evaluation.kernel_distance import kernel_distance
from lightning_gen.evaluation.manifold import manifold_metrics

LEAST = 20
"""Examples below which there is no neighbourhood and no block to speak of: the distance alone is given."""


def fidelity(
    generated: Features,
    reference: Features,
    root: Reference,
    extractor: Extractor,
    seed: int = 0,
    device: torch.device | str = "cpu",
    in_full: bool = True,
) -> dict[str, float]:
    """fd (fid too, where the features are those the name is kept for) and kid; `in_full` also fd_inf, precision, recall,
    density, coverage, and inception_score where the extractor classifies; each with its `_se` where it has one.

    Args:
        device: where blocks and neighbours are computed; they need float64, and a core takes minutes for 50,000 samples.
    """
    device = device if torch.device(device).type == "cuda" else "cpu"
    metrics = {"fd": frechet_distance(generated.moments, root)}
    if extractor.canonical:
        metrics["fid"] = metrics["fd"]
    if min(len(generated.rows), len(reference.rows)) < LEAST:
        return metrics
    if in_full and generated.moments.count == len(generated.rows):
        limit = frechet_at_infinity(generated.rows, root, seed)
        if limit is not None:
            metrics |= _with_error("fd_inf", limit.value, limit.se)
    rows, target = generated.rows.to(device), reference.rows.to(device)
    metrics |= _with_error("kid", *kernel_distance(rows, target))
    if not in_full:
        return metrics
    metrics |= manifold_metrics(rows, target)
    if generated.logits is not None:
        metrics |= _with_error("inception_score", *inception_score(generated.logits))
    return metrics


def _with_error(name: str, value: float, error: float) -> dict[str, float]:
    return {name: value} if math.isnan(error) else {name: value, f"{name}_se": error}


def check_counts(extractor: Extractor, num_samples: int, reference_count: int, reference: str) -> None:
    """Refuses sets that are too small for a covariance of this many features.

    Raises:
        UserError: as many samples, or reference examples, as features or fewer.
    """
    need = extractor.num_features
    if num_samples <= need:
        raise UserError(
            f"{extractor.label} has {need} features, whose covariance {num_samples} samples cannot give: --num_samples must "
            f"be above {need}, or 0 for a likelihood alone"
        )
    if reference_count <= need:
        raise UserError(
            f"{extractor.label} has {need} features, whose covariance the {reference_count} examples of the split "
            f"{reference!r} cannot give: choose a larger --reference, or another --extractor"
        )
