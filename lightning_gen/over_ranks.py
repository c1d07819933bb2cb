"""Sums over the ranks of a training, for what a model keeps of its own losses."""

from __future__ import annotations

from torch import Tensor, distributed


def sum_over_ranks(sums: Tensor) -> Tensor:
    """`sums` added up over all ranks, in place; alone, itself. Every rank must come here, with a tensor of one shape."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(sums)
    return sums


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of all ranks' `values`; alone, themselves. Every rank must come here, with a tensor of one shape."""
    if distributed.is_available() and distributed.is_initialized():
        return sum_over_ranks(values.clone()) / distributed.get_world_size()
    return values
