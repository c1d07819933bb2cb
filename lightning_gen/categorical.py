"""Draws from categorical distributions."""

from __future__ import annotations

from torch import Tensor


def draw_index(logits: Tensor, u: Tensor, dim: int) -> Tensor:
    """Indices along `dim` (which goes) with probabilities softmax(logits), by inversion of u in [0, 1), 1 long there."""
    cumulative = logits.softmax(dim).cumsum(dim)
    total = cumulative.narrow(dim, -1, 1)  # 1 but for rounding
    return (cumulative <= u * total).sum(dim).clamp(max=logits.shape[dim] - 1)
