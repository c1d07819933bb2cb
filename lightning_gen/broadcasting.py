"""Numbers and rows of each example beside tensors of whole examples, and of several samples of each."""

from __future__ import annotations

from torch import Tensor


def broadcast(value: Tensor, x: Tensor) -> Tensor:
    """`value`, [] or [B], with trailing ones so that it multiplies x [B, ...]."""
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim)) if value.ndim else value


def repeated(value: Tensor | None, num: int) -> Tensor | None:
    """[num * B, ...], the rows of `num` samples of each example, all examples of the first sample first; None of None."""
    return None if value is None else value.repeat(num, *[1] * (value.ndim - 1))
