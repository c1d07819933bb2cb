"""Every stretch of the order has every class in its share."""

import pytest
import torch

from datamodules.stratify import stratified, stratified_order


@pytest.mark.parametrize("seed", range(3))
def test_every_stretch_has_every_class_in_its_share(seed):
    y = torch.randint(6, (997,), generator=torch.Generator().manual_seed(seed)) ** 2 // 4
    order = stratified_order(y, seed)
    assert torch.equal(order.sort().values, torch.arange(997))
    share = torch.bincount(y).double() / 997
    for first, last in ((0, 10), (0, 500), (123, 456), (900, 997)):
        counts = torch.bincount(y[order[first:last]], minlength=len(share))
        assert (counts - share * (last - first)).abs().max() < 2 + 1e-9


def test_the_order_is_of_its_seed():
    y = torch.arange(100) % 3
    torch.manual_seed(1)
    assert torch.equal(stratified_order(y, 4), stratified_order(y, 4))
    assert not torch.equal(stratified_order(y, 4), stratified_order(y, 5))


def test_parts_are_sorted_stretches_of_the_order():
    y = torch.arange(100) % 7
    assert [sorted(part.tolist()) for part in stratified_order(y, 2).split([30, 70])] == [
        part.tolist() for part in stratified(y, [30, 70], 2)
    ]


def test_the_order_never_moves():
    # shipped extractors were fitted on one side of splits that it makes
    assert stratified_order(torch.tensor([5, 0, 5, 2, 2, 0, 5, 5, 2, 0]), 7).tolist() == [5, 2, 4, 1, 6, 8, 0, 9, 3, 7]
