"""The Frechet distance of infinitely many samples (Chong & Forsyth 2020, arXiv:1911.07023).

Of N samples the distance is too large by a series in 1/N. Subsets of several sizes show that series; continued to
1/N = 0 it gives what the model would score with samples without end. The subsets of a size are disjoint and cover all
samples, so that what the draw of the samples adds is common to the sizes and no slope is fitted to it. The series is
followed to its second term: at 8 samples a feature a straight line, as theirs, misses the truth by 4 to 9 standard errors
where the two laws are equal (256 features, flat or falling spectrum), the parabola by 0.5.

The standard error is the infinitesimal jackknife's (the variance of the influence of a sample, over N), taken in halves
of the samples. Where the laws are equal the distance is quadratic in the samples' noise, and the jackknife doubles that
part's variance; in halves it counts 4 times the whole set's, which is by how much the parabola's weights raise it.

The reference is taken as it is: what its own finite number adds to the distance stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_gen.evaluation.feature_sets import moments_of, shuffled
from lightning_gen.evaluation.frechet import Moments, Reference, frechet_distance, upper_congruence

PARTS = 4
"""Equal parts of the samples, the smallest subsets; they are joined two by two."""

FEWEST_PER_FEATURE = 2
"""Samples a feature in a part; below, the series in 1/N needs a third term."""

FEWEST = 32
"""Samples in a part, whatever the number of features."""

ROWS = 4096
"""Features handled at a time in float64."""


@dataclass(frozen=True)
class Extrapolation:
    """The distance at infinitely many samples, and the distances it was read from.

    Attributes:
        value: squared units of the features; may be negative by noise where two laws are the same.
        se: standard error of `value` over draws of the samples.
        sizes: samples in the subsets, rising; the last is all of them.
        distances: mean distance of the disjoint subsets of that size.
    """

    value: float
    se: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def frechet_at_infinity(features: Tensor, reference: Reference, seed: int = 0) -> Extrapolation | None:
    """The distance of the law of `features` [N, d] to the reference, from N, N/2 and N/4 of them.

    Args:
        seed: of the division into parts; for the same features it moves the result within its standard error.

    Returns:
        None where N is less than 8 d or 128: a quarter of the samples would say little of the series.

    Raises:
        UserError: features that are not finite, or of another number than the reference's.
    """
    if len(features) < PARTS * max(FEWEST, FEWEST_PER_FEATURE * features.shape[1]):
        return None
    quarters = shuffled(len(features), seed).to(features.device).tensor_split(PARTS)
    halves = (torch.cat(quarters[:2]), torch.cat(quarters[2:]))
    of_quarters = [_moments(features, rows) for rows in quarters]
    of_halves = [_joined(*of_quarters[:2]), _joined(*of_quarters[2:])]
    levels = [of_quarters, of_halves, [_joined(*of_halves)]]
    distances = [sum(frechet_distance(part, reference) for part in level) / len(level) for level in levels]
    # the parabola in 1/N through the three, at 0
    value = 8 / 3 * distances[2] - 2 * distances[1] + 1 / 3 * distances[0]
    variances = [_influence(features, rows, part, reference).var() for rows, part in zip(halves, of_halves)]
    se = (sum(variances) / 2 / len(features)).sqrt()
    sizes = tuple(len(features) // len(level) for level in levels)
    return Extrapolation(float(value), float(se), sizes, tuple(distances))


def _moments(features: Tensor, rows: Tensor) -> Moments:
    return moments_of((features[some] for some in rows.split(ROWS)), features.shape[1], features.device)


def _joined(a: Moments, b: Moments) -> Moments:
    """Moments of the union of two disjoint sets."""
    count = a.count + b.count
    apart = a.mean - b.mean
    scatter = (a.count - 1) * a.cov + (b.count - 1) * b.cov + a.count * b.count / count * torch.outer(apart, apart)
    return Moments((a.count * a.mean + b.count * b.mean) / count, scatter / (count - 1), count)


def _influence(features: Tensor, rows: Tensor, moments: Moments, reference: Reference) -> Tensor:
    """How the distance of these `rows` changes with the weight of each of them, [len(rows)], up to a constant.

    With y = f - m_g it is 2 (m_g - m_r)^T y + |y|^2 - |M^(-1/4) U y|^2, where S_r = U^T U and M = U S_g U^T.
    """
    factor, target = reference.factor.to(features.device), reference.moments.mean.to(features.device)
    values, vectors = torch.linalg.eigh(upper_congruence(factor, moments.cov), UPLO="U")
    noise = torch.finfo(values.dtype).eps * len(values) * values[-1]
    weights = torch.where(values > noise, values, torch.inf) ** -0.25
    whiten = (vectors * weights).T @ factor
    parts = []
    for some in rows.split(ROWS):
        y = features[some].double() - moments.mean
        parts.append(2 * y @ (moments.mean - target) + y.square().sum(1) - (y @ whiten.T).square().sum(1))
    return torch.cat(parts)
