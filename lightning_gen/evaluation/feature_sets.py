"""What every measurement of a set of features asks of it, and the one order in which it is divided."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.evaluation.frechet import FeatureStatistics, Moments


def require_sound(*sets: Tensor) -> None:
    """Sets of feature vectors [N, d], [M, d], ... can be measured together.

    Raises:
        UserError: a set that is no matrix, another width, or NaN or infinite values.
    """
    for features in sets:
        if features.ndim != 2:
            raise UserError(f"features of shape {tuple(features.shape)} where [N, d] is expected")
        if features.shape[1] != sets[0].shape[1]:
            raise UserError(
                f"the samples have {sets[0].shape[1]} features and the reference has {features.shape[1]}: both must "
                "come from the same extractor"
            )
        lost = len(features) - int(torch.isfinite(features).all(1).sum())
        if lost:
            raise UserError(
                f"the extractor's output is NaN or infinite for {lost} of {len(features)} examples: choose another --extractor"
            )


def moments_of(parts: Iterable[Tensor], num_features: int, device: torch.device | str = "cpu") -> Moments:
    """The moments of one set of features that comes in parts [B, num_features], all of them this rank's."""
    statistics = FeatureStatistics(num_features, sync_on_compute=False).to(device)
    for part in parts:
        statistics.update(part)
    return statistics.compute()


def shuffled(num: int, seed: int) -> Tensor:
    """A permutation of {0..num-1}, int64 [num], the same for a seed in all versions and on all machines.

    Sets are divided in this order, for those sorted by class or cycling through the classes would otherwise fall into
    parts that differ from one another.
    """
    return torch.from_numpy(np.random.RandomState(seed).permutation(num))
