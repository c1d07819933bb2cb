"""Bases: densities that integrate to one, and samples that they describe."""

import math

import pytest
import torch

from lightning_gen.flow.bases import StandardLogistic, StandardNormal, logistic
from lightning_gen.random_source import IndexedSource

BASES = [StandardNormal(), StandardLogistic()]
STEP = 0.05
AXIS = torch.arange(-40, 40 + STEP / 2, STEP, dtype=torch.float64)


def named(base) -> str:
    return type(base).__name__


def density(base) -> torch.Tensor:
    """On the axis. The trapezoidal rule is exact to rounding for what is analytic and has vanished at both ends."""
    return base.log_prob(AXIS[:, None]).exp()


@pytest.mark.parametrize("base", BASES, ids=named)
def test_a_density_integrates_to_one_and_has_mean_zero(base):
    assert float(density(base).sum() * STEP) == pytest.approx(1, abs=1e-12)
    assert float((AXIS * density(base)).sum() * STEP) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("base", BASES, ids=named)
def test_dimensions_are_independent(base):
    z = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(base.log_prob(z), sum(base.log_prob(z[:, [i]]) for i in range(3)))


@pytest.mark.parametrize("base", BASES, ids=named)
def test_samples_are_what_the_density_says(base, kolmogorov_smirnov):
    z = base.sample(20_000, 2, IndexedSource(0, range(20_000))).double()
    p = density(base)
    cdf = torch.cumsum((p[1:] + p[:-1]) / 2 * STEP, 0)
    index = ((z - AXIS[0]) / STEP).floor().long()
    share = (z - AXIS[index]) / STEP
    below = torch.cat([torch.zeros(1, dtype=torch.float64), cdf])
    for i in range(2):
        assert kolmogorov_smirnov(torch.lerp(below[index[:, i]], below[index[:, i] + 1], share[:, i])) < 1.95
    variance, fourth = (float((AXIS**k * p).sum() * STEP) for k in (2, 4))
    error = math.sqrt((fourth - variance**2) / z.numel())
    assert float(z.square().mean()) == pytest.approx(variance, abs=4 * error)
    assert float(z.mean()) == pytest.approx(0, abs=4 * math.sqrt(variance / z.numel()))
    assert abs(float((z[:, 0] * z[:, 1]).mean())) < 4 * variance / math.sqrt(len(z))


@pytest.mark.parametrize("base", BASES, ids=named)
def test_a_row_does_not_depend_on_its_batch(base):
    whole = base.sample(150, 5, IndexedSource(3, range(150)))
    assert whole.dtype == torch.float32
    assert torch.equal(base.sample(9, 5, IndexedSource(3, range(60, 69))), whole[60:69])


@pytest.mark.parametrize("base", BASES, ids=named)
def test_far_out_the_log_density_is_finite(base):
    """Where sigmoid and its like have underflown."""
    log_prob = base.log_prob(torch.tensor([[-300.0], [300.0]]))
    assert log_prob.isfinite().all() and log_prob[0] == log_prob[1] < -290


def test_the_ends_of_the_uniform_draws_are_finite_logistic_ones(given_noise):
    """float32 uniforms lie on multiples of 2^-24, 0 among them."""
    ends = torch.tensor([[0.0], [1 - 2.0**-24]])
    z = logistic(given_noise(ends), (2, 1))
    assert z.isfinite().all() and z[0] < -16 and z[1] > 15
