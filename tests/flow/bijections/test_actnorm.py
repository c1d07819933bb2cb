"""Activation normalization starts from the moments of one batch and is then what it is."""

import copy

import pytest
import torch

from lightning_gen.flow import ActNorm
from lightning_gen.flow.bijections import actnorm

SHAPES = [(3, 4, 5), (3,)]


def batch(shape, num=64):
    """Channels of different means and scales, in float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num, *shape, generator=generator, dtype=torch.float64)
    scale, mean = (
        torch.tensor(v, dtype=torch.float64).view(3, *[1] * (len(shape) - 1))
        for v in ([0.01, 1.0, 70.0], [5.0, -2.0, 1e3])
    )
    return x * scale + mean


@pytest.mark.parametrize("shape", SHAPES)
def test_the_batch_it_starts_from_has_mean_0_and_variance_1_in_each_channel(shape):
    layer, x = ActNorm(shape).double(), batch(shape)
    assert torch.equal(layer(x)[0], x)
    z = layer.initialize(x).transpose(0, 1).flatten(1)
    assert not z.requires_grad
    torch.testing.assert_close(z.mean(1), torch.zeros(3).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(z.var(1, correction=0), torch.ones(3).double(), rtol=0, atol=1e-9)


def test_float32_loses_no_moment_of_what_is_far_from_zero():
    """E[x^2] - E[x]^2 in float32 would have no digit left."""
    layer = ActNorm((1,))
    x = 1000 + 0.01 * torch.randn(4096, 1, generator=torch.Generator().manual_seed(0))
    assert abs(layer.initialize(x).std() - 1) < 1e-2


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_but_initialize_changes_it(shape, equal):
    layer, x = ActNorm(shape).double(), batch(shape)
    for start in (lambda: None, lambda: layer.initialize(x)):
        start()
        before = {key: value.clone() for key, value in layer.state_dict().items()}
        for training in (True, False):
            layer.train(training)
            layer(3 * x + 1)
            layer.inverse(3 * x + 1)
            assert equal(before, layer.state_dict())


def test_a_channel_that_is_constant_stays_finite_and_goes_back():
    layer, x = ActNorm((2, 2, 2)), torch.randn(5, 2, 2, 2)
    x[:, 1] = 7.0
    z = layer.initialize(x)
    assert z.isfinite().all() and layer(x)[1].isfinite().all()
    torch.testing.assert_close(layer.inverse(z), x)
    assert (layer(x + 1e-3)[0] - z).abs().max() < 2e3


def test_the_moments_are_those_of_all_ranks(monkeypatch):
    """Two ranks' halves, whose moments meet in `mean_over_ranks`, give both what the whole gives one."""
    x = batch((3, 4, 5)) + torch.linspace(0, 9, 64, dtype=torch.float64)[:, None, None, None]
    alone = ActNorm((3, 4, 5)).double()
    alone.initialize(x)
    seen = []
    monkeypatch.setattr(actnorm, "mean_over_ranks", lambda values: seen.append(values) or values)
    ranks = [copy.deepcopy(alone) for _ in range(2)]
    for rank, half in zip(ranks, x.chunk(2)):
        rank.initialize(half)
        assert not torch.allclose(rank.shift, alone.shift)
    met = (seen[0] + seen[1]) / 2
    monkeypatch.setattr(actnorm, "mean_over_ranks", lambda values: met)
    for rank, half in zip(ranks, x.chunk(2)):
        rank.initialize(half)
        for own, expected in zip(rank.parameters(), alone.parameters()):
            torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-9)


def test_agrees_with_normflows():
    """Which divides by N - 1, and adds 1e-6 to the deviation."""
    normflows = pytest.importorskip("normflows")
    x = batch((3, 4, 5))
    ours, theirs = ActNorm((3, 4, 5)).double(), normflows.flows.ActNorm((3, 1, 1)).double()
    ours.initialize(x)
    theirs(x)
    count = x.numel() // 3
    with torch.no_grad():
        theirs.s.copy_(-((-theirs.s).exp() - 1e-6).log() + 0.5 * torch.tensor(count / (count - 1)).log())
        theirs.t.copy_(-x.mean((0, 2, 3), keepdim=True) * theirs.s.exp())
    torch.testing.assert_close(ours.log_scale, theirs.s.flatten(), rtol=1e-6, atol=1e-6)
    (z, log_det), (expected, expected_log_det) = ours(x), theirs(x)
    torch.testing.assert_close(z, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_det, expected_log_det.expand(64), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(ours.inverse(z), theirs.inverse(z)[0], rtol=1e-5, atol=1e-4)


def test_a_channel_that_is_constant_in_the_first_batch_starts_at_scale_one_and_is_named():
    """A value that shows itself later is not blown up: it was, a million times."""
    layer, x = ActNorm((3,)), torch.randn(64, 3)
    x[:, 1] = 1000.1
    with pytest.warns(UserWarning, match=r"channel 1 of shape \[3\] is constant"):
        layer.initialize(x)
    assert layer.log_scale[1] == 0 and (layer.log_scale[[0, 2]] != 0).all()
    x[0, 1] += 1
    assert abs(layer(x)[0][0, 1] - 1) < 1e-3
