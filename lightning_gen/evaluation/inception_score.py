"""The Inception score of a classifier's outputs on samples (Salimans et al. 2016, arXiv:1606.03498)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.evaluation.feature_sets import require_sound, shuffled

ORDER = 2020
"""Seed of the order in which samples are split: torch-fidelity's, so that the splits are the same."""


def inception_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """exp(mean KL(p(y|x) | p(y))), from 1 to the number of classes: its mean over splits, and the standard error of it.

    The mean is torch-fidelity's with its own defaults. Beside it torch-fidelity and papers give the standard deviation
    over splits, which is about sqrt(splits) times the standard error. A split's p(y) is its own mean, so scores of
    different N or `splits` do not compare.

    Args:
        logits: [N, classes], of any precision; computed in float64.
        splits: parts of equal size, in a fixed random order. With 1 the standard error is NaN.

    Raises:
        UserError: logits that are not finite, or fewer samples than splits.
    """
    require_sound(logits)
    if not 1 <= splits <= len(logits):
        raise UserError(f"an Inception score in {splits} splits needs as many samples, got {len(logits)}: set splits")
    log_p = logits.double().log_softmax(1)[shuffled(len(logits), ORDER).to(logits.device)]
    ends = [i * len(log_p) // splits for i in range(splits + 1)]
    scores = torch.stack([_score(log_p[start:end]) for start, end in zip(ends, ends[1:])])
    error = scores.std() / math.sqrt(splits) if splits > 1 else torch.nan
    return float(scores.mean()), float(error)


def _score(log_p: Tensor) -> Tensor:
    marginal = log_p.logsumexp(0) - math.log(len(log_p))
    return (log_p.exp() * (log_p - marginal)).sum(1).mean().exp()
