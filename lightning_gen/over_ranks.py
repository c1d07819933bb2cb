"""Sums over the ranks of a training, and their shares of a batch, for what a model does with its own losses and activations."""

from __future__ import annotations

from torch import Tensor, distributed


def _ranks() -> int:
    """How many train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def sum_over_ranks(sums: Tensor) -> Tensor:
    """`sums` added up over all ranks, in place; alone, itself. Every rank must come here, with a tensor of one shape."""
    if _ranks() > 1:
        distributed.all_reduce(sums)
    return sums


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of all ranks' `values`; alone, themselves. Every rank must come here, with a tensor of one shape."""
    return sum_over_ranks(values.clone()) / ranks if (ranks := _ranks()) > 1 else values


def rows_of_rank(num: int) -> slice:
    """This rank's share of `num` rows that every rank has; alone, or where they do not divide, all of them."""
    share, rest = divmod(num, ranks := _ranks())
    if ranks == 1 or rest:
        return slice(num)
    return slice(distributed.get_rank() * share, (distributed.get_rank() + 1) * share)
