"""The kernel distance between two sets of features (KID; Binkowski et al. 2018, arXiv:1801.01401)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.evaluation.feature_sets import require_sound, shuffled

BLOCK = 1000
"""Samples in a block where there are many; Binkowski et al. use subsets of this size."""

CHUNK = 4096
"""Rows and columns of the kernel matrix that exist at a time."""


def kernel_distance(features: Tensor, reference: Tensor, num_blocks: int | None = None) -> tuple[float, float]:
    """Squared maximum mean discrepancy under k(x, y) = (x.y / d + 1)^3, and its standard error.

    Both sets are cut into `num_blocks` disjoint blocks, in a fixed random order; the value is the mean over the pairs of
    blocks of the unbiased estimate, the error their standard deviation over sqrt(num_blocks). So it is unbiased for any
    number of samples, may be negative by noise, and blocks are independent draws, which overlapping subsets are not.

    Args:
        features: [N, d].
        reference: [M, d].
        num_blocks: by default one for every 1000 of the smaller set, but at least 10 as long as they keep 50 each, and
            never under 2. 1 takes each set whole; the error is then NaN.

    Raises:
        UserError: features that are not finite or of different widths, or blocks of fewer than 2.
    """
    require_sound(features, reference)
    smaller = min(len(features), len(reference))
    if num_blocks is None:
        num_blocks = max(2, min(smaller // 50, 10), smaller // BLOCK)
    if num_blocks < 1 or smaller < 2 * num_blocks:
        raise UserError(
            f"a kernel distance in {num_blocks} blocks needs at least 2 samples in each of them; there are "
            f"{len(features)} samples and {len(reference)} of the reference (set num_blocks or num_samples)"
        )
    # different orders: the pairs of two sets that share their indices shall not meet in the same block
    cuts = [
        shuffled(len(rows), seed).to(rows.device).tensor_split(num_blocks)
        for seed, rows in enumerate((features, reference))
    ]
    values = torch.tensor([_discrepancy(features[a], reference[b]) for a, b in zip(*cuts)], dtype=torch.float64)
    error = values.std() / math.sqrt(num_blocks) if num_blocks > 1 else torch.nan
    return float(values.mean()), float(error)


def _discrepancy(x: Tensor, y: Tensor) -> float:
    """The unbiased estimate: means of k over pairs of different samples within x and within y, and over all across."""
    return _mean_within(x) + _mean_within(y) - 2 * _sum_across(x, y) / (len(x) * len(y))


def _mean_within(x: Tensor) -> float:
    chunks = x.split(CHUNK)
    total = 0.0
    for i, rows in enumerate(chunks):
        own = _kernel(rows, rows)
        total += float(own.sum() - own.diagonal().sum())
        total += 2 * sum(float(_kernel(rows, columns).sum()) for columns in chunks[i + 1 :])
    return total / (len(x) * (len(x) - 1))


def _sum_across(x: Tensor, y: Tensor) -> float:
    return sum(float(_kernel(rows, columns).sum()) for rows in x.split(CHUNK) for columns in y.split(CHUNK))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x.y / d + 1)^3 for all pairs, float64."""
    root = (x.double() @ y.double().T).div_(x.shape[1]).add_(1)
    return root.square().mul_(root)
