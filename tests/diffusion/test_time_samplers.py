"""Laws of the time samplers: uniform marginals, strata that cover, the same whatever the number of ranks."""

import pytest
import torch

from lightning_gen.diffusion import LowDiscrepancy, Uniform
from lightning_gen.random_source import GeneratorSource


@pytest.mark.parametrize("sampler", [Uniform(), LowDiscrepancy()])
def test_marginally_uniform(sampler):
    rng = GeneratorSource(0)
    t = torch.stack([sampler.sample(16, rng) for _ in range(2000)])
    assert t.min() >= 0 and t.max() <= 1
    moments = [t.double().pow(k).mean().item() for k in (1, 2, 3)]
    assert moments == pytest.approx([1 / 2, 1 / 3, 1 / 4], abs=0.01)
    torch.testing.assert_close(sampler.density(t), torch.ones_like(t))


@pytest.mark.parametrize("num", [1, 7, 128, 100_000])
def test_every_stratum_is_met_once(num):
    t = LowDiscrepancy().sample(num, GeneratorSource(1)).double()
    strata = (t * num - 1e-3).floor().clamp(0, num - 1).long()  # float32 may touch the next stratum's edge
    assert t.max() <= 1
    assert strata.unique().numel() >= num * 0.97


def test_low_discrepancy_lowers_the_variance():
    def spread(sampler):
        rng = GeneratorSource(3)
        return torch.stack([sampler.sample(64, rng).square().mean() for _ in range(300)]).std().item()

    assert spread(LowDiscrepancy()) < 0.2 * spread(Uniform())


@pytest.mark.parametrize("num", [64, 100, 96])
def test_every_share_covers_the_unit_interval(num):
    """Eight ranks or micro-batches: each has times from all over, not a stretch of its own."""
    t = LowDiscrepancy().sample(num, GeneratorSource(2))
    for share in t.chunk(8):
        assert share.sort().values.diff().max() < 0.4
        assert share.mean().item() == pytest.approx(0.5, abs=0.12)
