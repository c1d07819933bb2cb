"""A number for each example beside tensors of whole examples."""

from __future__ import annotations

from torch import Tensor


def broadcast(value: Tensor, x: Tensor) -> Tensor:
    """`value`, [] or [B], with trailing ones so that it multiplies x [B, ...]."""
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim)) if value.ndim else value
