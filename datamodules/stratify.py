"""An order of labelled examples in which every stretch holds every class in its share."""

from __future__ import annotations

import torch
from torch import Tensor


def stratified_order(y: Tensor, seed: int) -> Tensor:
    """A permutation of the N examples, int64 [N], any stretch of which has every class of `y` [N] in its share.

    The members of each class, shuffled, are spread evenly over [0, 1); a stretch of that line has every class in its
    share to within two examples (systematic sampling).
    """
    generator = torch.Generator().manual_seed(seed)
    place = torch.empty(len(y), dtype=torch.float64)
    _, sizes = y.unique(return_counts=True)  # by label, as the sort is
    for members in y.argsort(stable=True).split(sizes.tolist()):
        offset = torch.rand((), generator=generator, dtype=torch.float64)
        place[members] = (torch.randperm(len(members), generator=generator) + offset) / len(members)
    return place.argsort(stable=True)


def stratified(y: Tensor, sizes: list[int], seed: int) -> list[Tensor]:
    """Disjoint sets of indices of exactly these sizes, sorted, with the classes of `y` [N] in equal shares in each."""
    if sum(sizes) != len(y):
        raise ValueError(f"{sizes} do not add up to the {len(y)} examples")
    return [part.sort().values for part in stratified_order(y, seed).split(sizes)]
