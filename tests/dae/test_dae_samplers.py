"""Samplers: Langevin dynamics are stationary where theory says, denoising in part follows the probability flow."""

import pytest
import torch

from lightning_gen.closed_forms import GaussianPosterior
from lightning_gen.dae import (
    DenoisingAutoencoder,
    FixedNoise,
    Informed,
    Langevin,
    LinearDenoiser,
    LogUniformNoise,
    NoiseToManifold,
    OptimalDenoiser,
)
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource, IndexedSource

MEAN = torch.tensor([0.5, -1.0])
COV = torch.tensor([[0.5, 0.3], [0.3, 0.4]])
GAUSSIAN = LinearDenoiser(GaussianPosterior(MEAN, COV))
RANGE = LogUniformNoise(0.01, 20.0)


def drawn(sampler, noise, num=4000, denoiser=GAUSSIAN, shape=(2,)):
    *_, last = sampler.trajectory(denoiser, noise, (num, *shape), None, GeneratorSource(0))
    return last.x


@pytest.mark.parametrize("temperature", [1.0, 0.25])
@pytest.mark.parametrize("h", [0.1, 0.8])
def test_langevin_at_one_level_is_stationary_where_theory_says(h, temperature):
    """x' = x - h sigma^2 P (x - m) + sqrt(2 h T) sigma z, P = (C + sigma^2)^-1: covariance T (P (1 - h sigma^2 P / 2))^-1."""
    sigma = 0.6
    sampler = Langevin(levels=1, steps=int(30 / h), step_size=h, temperature=temperature, denoise=False)
    x = drawn(sampler, FixedNoise(sigma))
    precision = torch.linalg.inv(COV + sigma**2 * torch.eye(2))
    expected = temperature * torch.linalg.inv(precision @ (torch.eye(2) - 0.5 * h * sigma**2 * precision))
    torch.testing.assert_close(x.mean(0), MEAN, atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(x.T), expected, atol=0.04, rtol=0)


@pytest.mark.parametrize(
    "sampler", [Langevin(levels=30, steps=20, step_size=0.2), NoiseToManifold(200), NoiseToManifold(200, churn=0.4)]
)
def test_over_a_range_the_datas_own_mean_and_covariance_are_reached(sampler):
    x = drawn(sampler, RANGE)
    torch.testing.assert_close(x.mean(0), MEAN, atol=0.06, rtol=0)
    torch.testing.assert_close(torch.cov(x.T), COV, atol=0.05, rtol=0)


def test_without_noise_langevin_climbs_to_the_mode():
    x = drawn(Langevin(levels=1, steps=200, step_size=1.0, temperature=0.0), FixedNoise(1.0), num=3)
    torch.testing.assert_close(x, MEAN.expand(3, 2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("sampler", [NoiseToManifold(40), NoiseToManifold(40, churn=0.3), Langevin(15, 10)])
def test_samples_of_the_optimal_denoiser_are_the_training_set(sampler):
    examples = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    x = drawn(sampler, LogUniformNoise(0.01, 20.0), 300, OptimalDenoiser(examples), (5,))
    distance, index = torch.cdist(x, examples).min(1)
    assert distance.max() < 1e-2 and len(index.unique()) > 20


def test_at_one_level_the_autoencoder_is_fed_its_own_output():
    rng, sigma = IndexedSource(0, range(4)), torch.tensor(0.5)
    x = (1 + 0.5**2) ** 0.5 * rng.normal((4, 2))
    for _ in range(3):
        x = GAUSSIAN(x, sigma)
    *_, last = NoiseToManifold(3).trajectory(GAUSSIAN, FixedNoise(0.5), (4, 2), None, IndexedSource(0, range(4)))
    torch.testing.assert_close(last.x, x)
    assert last.sigma == 0.0


def test_one_step_from_the_highest_level_goes_to_the_mean():
    """Pure noise says nothing of the data: D of it is about their mean."""
    rng = IndexedSource(0, range(500))
    first, last = NoiseToManifold(1).trajectory(GAUSSIAN, RANGE, (500, 2), None, rng)
    torch.testing.assert_close(last.x, GAUSSIAN(first.x, torch.tensor(RANGE.highest)))
    assert first.x.std().item() == pytest.approx(RANGE.highest, rel=0.05)
    assert (last.x - MEAN).square().mean().sqrt() < 0.05
    *_, last = Langevin(1, 150, temperature=0.0).trajectory(GAUSSIAN, RANGE, (9, 2), None, GeneratorSource(0))
    torch.testing.assert_close(last.x, MEAN.expand(9, 2), atol=0.01, rtol=0)


def test_knowing_a_part_draws_the_rest_given_it():
    """x_1 | x_0 of a Gaussian, in closed form."""
    known = torch.tensor([1.5, 0.0]).expand(4000, 2)
    informed = Informed(GAUSSIAN, known, torch.tensor([True, False]))
    x = drawn(Langevin(levels=40, steps=20, step_size=0.2), RANGE, 4000, informed)
    assert torch.allclose(x[:, 0], known[:, 0])
    gain = COV[1, 0] / COV[0, 0]
    assert x[:, 1].mean().item() == pytest.approx((MEAN[1] + gain * (1.5 - MEAN[0])).item(), abs=0.05)
    assert x[:, 1].var().item() == pytest.approx((COV[1, 1] - gain * COV[1, 0]).item(), abs=0.03)


@pytest.mark.parametrize("noise", [LogUniformNoise(), LogUniformNoise(0.02, 20.0), LogUniformNoise(0.05, 10.0)])
def test_the_default_imputer_draws_from_the_conditional(noise):
    """Of unit normals with correlation 0.8: slope 0.8 and variance 0.36, within 0.03."""
    pair = LinearDenoiser(GaussianPosterior(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]])))
    known = torch.linspace(-2, 2, 2000)
    informed = Informed(pair, torch.stack([known, 0 * known], 1), torch.tensor([True, False]))
    module = DenoisingAutoencoder((2,), None, None, lambda *_: torch.nn.Identity(), noise)
    x = drawn(module.imputer, noise, 2000, informed)[:, 1]
    slope = (x @ known / (known @ known)).item()
    assert slope == pytest.approx(0.8, abs=0.03)
    assert (x - slope * known).var().item() == pytest.approx(0.36, abs=0.04)


def test_churn_puts_new_noise_in_the_place_of_old():
    """Of data that are all 0: at every level the noise has that level's deviation, and is less and less the first one."""

    def nothing(x, sigma, y=None):
        return 0 * x

    kept = {}
    for churn in (0.0, 0.2, 0.5):
        sampler = NoiseToManifold(20, churn=churn, highest=10.0)
        first, *points = sampler.trajectory(nothing, RANGE, (4000, 2), None, GeneratorSource(0))
        for point in points[4:-1]:  # the start is a little wider than the highest level
            assert point.x.std().item() == pytest.approx(point.sigma, rel=0.03)
        kept[churn] = torch.corrcoef(torch.stack([first.x.flatten(), points[4].x.flatten()]))[0, 1]
    assert kept[0.0] > 0.999 and 0.02 < kept[0.5] < kept[0.2] < 0.98


class Counted:
    """How often a denoiser is asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, sigma, y=None):
        self.calls += 1
        return x / 2


@pytest.mark.parametrize(
    "sampler", [NoiseToManifold(7), Langevin(3, 4), Langevin(3, 4, denoise=False), NoiseToManifold(5, eta=0.3)]
)
def test_what_a_sample_costs(sampler):
    denoiser = Counted()
    drawn(sampler, RANGE, 2, denoiser)
    assert denoiser.calls == sampler.nfe


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: NoiseToManifold(0),
        lambda: NoiseToManifold(eta=2.0),
        lambda: NoiseToManifold(churn=1.0),
        lambda: NoiseToManifold(eta=0.5, churn=0.5),
        lambda: Langevin(levels=0),
        lambda: Langevin(steps=0),
        lambda: Langevin(step_size=2.0),
        lambda: Langevin(temperature=-1.0),
        lambda: Langevin(highest=50.0).check(RANGE),
    ],
)
def test_what_is_no_sampler_is_refused(wrong):
    with pytest.raises(UserError):
        wrong()
