"""Laws of stratified numbers."""

import pytest
import torch

from lightning_gen.random_source import GeneratorSource
from lightning_gen.strata import strata


@pytest.mark.parametrize("num", [1, 2, 7, 64, 1000])
def test_one_in_each_stratum(num):
    u = strata(num, GeneratorSource(3))
    assert u.dtype == torch.float64 and u.min() >= 0 and u.max() < 1
    assert (u * num - 1e-9).ceil().clamp(min=1).long().sort().values.tolist() == list(range(1, num + 1))
    assert (u * num % 1).std(correction=0) < 1e-9  # with one offset


def test_each_number_is_uniform():
    u = torch.stack([strata(5, GeneratorSource(seed)) for seed in range(400)])
    assert (u.mean(0) - (u * 5).floor().add(0.5).mean(0) / 5).abs().max() < 4 * (1 / 12) ** 0.5 / 5 / 20
    assert (u * 5 % 1).std().item() == pytest.approx((1 / 12) ** 0.5, rel=0.1)


@pytest.mark.parametrize(("num", "ranks"), [(64, 2), (64, 4), (1000, 8), (96, 3)])
def test_each_share_of_the_batch_covers_all(num, ranks):
    """Rows in a row are spread: no rank, and no micro-batch, has times of its own kind."""
    for share in strata(num, GeneratorSource(0)).chunk(ranks):
        gaps = torch.cat([torch.zeros(1), share.sort().values, torch.ones(1)]).diff()
        assert gaps.max() < 6 / len(share)


def test_big_batches_stay_below_one():
    """In float32 the last of so many would round to 1."""

    class AtTheEdge(GeneratorSource):
        def uniform(self, shape, dtype=torch.float32):
            return torch.full(shape, 1 - 2**-24, dtype=dtype)

    assert strata(1 << 20, AtTheEdge()).max() < 1
