"""Langevin dynamics reach the density whose score they are given."""

import math

import pytest
import torch

from lightning_gen.diffusion.parameterizations import Prediction
from lightning_gen.diffusion.paths import VarianceExploding, VariancePreserving
from lightning_gen.diffusion.schedules import LinearLogSNR
from lightning_gen.diffusion.solvers import AnnealedLangevin, langevin_step
from lightning_gen.errors import UserError

DOUBLE = torch.float64


def walk(x, score, eta, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = langevin_step(x, score(x), eta, torch.randn(x.shape, generator=generator, dtype=x.dtype))
    return x


def energy_distance(a, b):
    """E |a - b| - (E |a - a'| + E |b - b'|) / 2: zero where, and only where, the two laws are one (Szekely & Rizzo 2013)."""
    n, m = len(a), len(b)
    within = torch.cdist(a, a).sum() / (n * (n - 1)) + torch.cdist(b, b).sum() / (m * (m - 1))
    return (torch.cdist(a, b).mean() - 0.5 * within).item()


def test_stationary_variance_of_a_gaussian():
    """On N(m, s^2) x contracts by 1 - eta / s^2 and gains 2 eta: it ends with variance s^2 / (1 - eta / (2 s^2)), exactly."""
    s2, eta = torch.tensor([0.25, 1.0, 4.0], dtype=DOUBLE), 0.1
    # the map of (mean, variance) that one step makes, from its responses to x and to z
    one, zero = torch.ones(1, 3, dtype=DOUBLE), torch.zeros(1, 3, dtype=DOUBLE)
    gain, kick = langevin_step(one, -one / s2, eta, zero), langevin_step(zero, zero, eta, one)
    torch.testing.assert_close(kick**2 / (1 - gain**2), (s2 / (1 - eta / (2 * s2)))[None])


def test_gaussian_is_reached_from_anywhere():
    mean, precision = torch.tensor([1.0, -2.0], dtype=DOUBLE), torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=DOUBLE)
    x = walk(torch.zeros(4000, 2, dtype=DOUBLE) + 5, lambda x: -(x - mean) @ precision, 0.02, 500)
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=5 * 1.2 / math.sqrt(4000))
    torch.testing.assert_close(torch.cov(x.T), torch.linalg.inv(precision), rtol=0, atol=0.12)


def test_mixture_is_reached_to_the_mass_of_each_mode():
    """Unequal modes that overlap enough to be crossed: moments and energy distance, whose spread under the true law is 1e-3."""
    means, mass, s2 = torch.tensor([[-1.2, 0.0], [1.2, 0.5]], dtype=DOUBLE), torch.tensor([0.3, 0.7], dtype=DOUBLE), 0.5

    def score(x):
        logits = mass.log() - (x[:, None] - means).square().sum(-1) / (2 * s2)
        return (logits.softmax(1) @ means - x) / s2

    generator = torch.Generator().manual_seed(1)
    which = torch.multinomial(mass, 1500, replacement=True, generator=generator)
    truth = means[which] + math.sqrt(s2) * torch.randn(1500, 2, generator=generator, dtype=DOUBLE)
    x = walk(torch.zeros(1500, 2, dtype=DOUBLE), score, 0.04, 400)
    assert (x.mean(0) - mass @ means).abs().max() < 0.1
    assert energy_distance(x, truth) < 5e-3
    assert energy_distance(x + 0.2, truth) > 1e-2  # what the threshold can tell


def test_step_sizes_are_each_examples_own():
    x, z, eta = torch.randn(3, 2, 4), torch.randn(3, 2, 4), torch.tensor([0.1, 0.2, 0.3])
    rows = [langevin_step(x[i : i + 1], -x[i : i + 1], eta[i], z[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(langevin_step(x, -x, eta, z), torch.cat(rows))


@pytest.mark.parametrize("path", [VariancePreserving(), VarianceExploding(1.0)])
def test_annealed_walk_reaches_the_data(gaussian, tools, path):
    """More steps at each level, less of the levels before is left; what remains is the bias of the step size."""
    levels = tools.levels(LinearLogSNR(-4.0, 1.0), path, 8)
    few, many = (max(gaussian.weak_error(AnnealedLangevin(n, epsilon=0.2 * math.exp(-1.0)), levels)) for n in (5, 100))
    assert many < 0.2 * few
    assert many < 0.05


@pytest.mark.parametrize("path", [VarianceExploding(1.0), VariancePreserving()])
def test_a_step_is_the_papers(path):
    """x + a / 2 score + sqrt(a) z, a = epsilon sigma^2 / sigma_last^2, of x / alpha and sigma / alpha on every path."""
    schedule = LinearLogSNR(-4.0, math.log(1e4))  # the last sigma is 0.01

    class Known:
        def at(self, x, level):
            return Prediction(x, 0.5 * x / level.alpha)

    class Unit:
        def normal(self, shape, dtype):
            return torch.ones(shape, dtype=dtype)

    at, to = (path.at(schedule, torch.tensor(t, dtype=DOUBLE)) for t in (0.6, 0.5))
    x, sigma = torch.tensor([[1.0, -2.0]], dtype=DOUBLE), to.sigma / to.alpha
    a = 2e-5 * sigma**2 / 0.01**2
    end = AnnealedLangevin(1).step(Known(), at.alpha * x, at, to, None, Unit())[0]
    torch.testing.assert_close(end / to.alpha, x + a / 2 * (-0.5 * x / sigma) + a.sqrt())


def test_too_large_an_epsilon_is_refused():
    AnnealedLangevin().check(LinearLogSNR(-5.0, 9.0), ())
    with pytest.raises(UserError, match="epsilon"):
        AnnealedLangevin().check(LinearLogSNR(-5.0, 15.0), ())


@pytest.mark.parametrize("bad", [{"steps": 0}, {"epsilon": 0.0}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(UserError, match="AnnealedLangevin"):
        AnnealedLangevin(**bad)
