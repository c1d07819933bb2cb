"""Stratified numbers for a whole batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_gen.random_source import RandomSource


def strata(num: int, rng: RandomSource) -> Tensor:
    """One number in each of `num` equal parts of [0, 1), with one common offset; float64 (Kingma et al. 2021, app. I.1).

    Marginally uniform, and far less noisy: the strata cover [0, 1] in every batch. Since the whole global batch is
    stratified, the variance does not grow with the number of ranks or accumulated micro-batches. Strata are dealt out in
    golden-ratio steps, so that each rank's and micro-batch's share covers [0, 1] too.
    """
    offset = rng.uniform((1,), dtype=torch.float64)  # float32 would round (num - 1 + u) / num up to 1 in big batches
    stride = next(s for s in range(max(1, round(num * 0.618)), num + 1) if math.gcd(s, num) == 1)
    stratum = torch.arange(num, device=offset.device) * stride % num
    return (stratum + offset) / num
