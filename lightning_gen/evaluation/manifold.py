"""Precision, recall, density and coverage: two sets of features by the balls around their points.

The balls reach to the k-th nearest other point of the same set. Improved precision and recall: Kynkaanniemi et al. 2019,
arXiv:1904.06991; density and coverage: Naeem et al. 2020, arXiv:2002.09797.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.evaluation.feature_sets import require_sound

CHUNK = 2048
"""Rows and columns of the distance matrix that exist at a time."""

TIE = 1e-12
"""Squared distances that differ by this part of the features' squared norms are equal: rounding is some hundred times
less. Without it a copy of a point, or points on a lattice, would lie within a ball or not as rounding has it."""


def manifold_metrics(features: Tensor, reference: Tensor, k: int = 3, k_density: int = 5) -> dict[str, float]:
    """The four of samples `features` [N, d] against `reference` [M, d]; a point on a ball's edge lies within it.

    - `precision`: the part of the samples within any reference ball; `recall`: of the reference within any sample's.
    - `density`: reference balls a sample lies in, over k: 1 in expectation for equal laws, and more where samples crowd
      in the data's dense parts. `coverage`: the part of the reference balls that hold a sample.

    Distances are float64, of features centred on the reference. Beyond the features themselves it holds some chunks of
    the distance matrix; time goes as (N + M)^2 d.

    Args:
        k: neighbours of the balls of precision and recall.
        k_density: of density and coverage.

    Raises:
        UserError: features that are not finite or of different widths, or no more points than neighbours.
    """
    require_sound(features, reference)
    furthest = max(k, k_density)
    for name, rows in (("samples", features), ("points of the reference", reference)):
        if len(rows) <= furthest:
            raise UserError(
                f"balls to the {furthest}-th neighbour need more than {furthest} {name}, got {len(rows)}: set num_samples"
            )
    centre = reference.mean(0, dtype=torch.float64)
    of_features = _squared_radii(features, centre, (k,))
    of_reference = _squared_radii(reference, centre, (k, k_density))
    precise = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    recalled, covered = torch.zeros(2, len(reference), dtype=torch.bool, device=features.device)
    held = torch.zeros((), dtype=torch.int64, device=features.device)
    for rows in _chunks(reference):
        own = reference[rows].double() - centre
        for columns in _chunks(features):
            squared = _squared_distances(own, features[columns].double() - centre)
            precise[columns] |= (squared <= of_reference[rows, :1]).any(0)
            recalled[rows] |= (squared <= of_features[columns, 0]).any(1)
            within = squared <= of_reference[rows, 1:]
            covered[rows] |= within.any(1)
            held += within.count_nonzero()
    return {
        "precision": float(precise.double().mean()),
        "recall": float(recalled.double().mean()),
        "density": int(held) / (k_density * len(features)),
        "coverage": float(covered.double().mean()),
    }


def _squared_radii(points: Tensor, centre: Tensor, ks: tuple[int, ...]) -> Tensor:
    """Squared distance of each point to its k-th nearest other, for each k, widened to hold ties: [N, len(ks)]."""
    nearest = torch.full((len(points), max(ks)), torch.inf, dtype=torch.float64, device=points.device)
    norms = torch.empty(len(points), 1, dtype=torch.float64, device=points.device)
    chunks = _chunks(points)
    for i, rows in enumerate(chunks):
        own = points[rows].double() - centre
        norms[rows] = own.square().sum(1, keepdim=True)
        for columns in chunks[i:]:
            squared = _squared_distances(own, points[columns].double() - centre)
            if rows == columns:
                squared.fill_diagonal_(torch.inf)
            else:
                nearest[columns] = _smallest(nearest[columns], squared.T.contiguous())
            nearest[rows] = _smallest(nearest[rows], squared)
    radii = nearest[:, [k - 1 for k in ks]]
    return radii + TIE * (norms + radii)


def _smallest(known: Tensor, found: Tensor) -> Tensor:
    """The smallest of two sets of numbers in each row, rising, as many as `known` has: [R, k] of [R, k] and [R, C]."""
    k = known.shape[1]
    found = found.topk(min(k, found.shape[1]), largest=False).values
    return torch.cat([known, found], 1).topk(k, largest=False).values


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x - y|^2 of all pairs, [R, C], float64; rounding may leave it just below 0."""
    squares = [z.square().sum(1) for z in (x, y)]
    return torch.addmm(squares[1], x, y.T, alpha=-2).add_(squares[0][:, None])


def _chunks(rows: Tensor) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, len(rows), CHUNK)]
