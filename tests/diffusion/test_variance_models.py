"""Laws of what a model knows of its doubt: the record of its errors is Var(x0 | x_t), the reverse KL is a KL."""

import math

import pytest
import torch

from lightning_gen.diffusion import (
    Cosine,
    FixedSmall,
    GaussianDenoiser,
    LearnedVariance,
    LinearBeta,
    Prediction,
    TrackedVariance,
    TrainingSetDenoiser,
    VarianceExploding,
    VariancePreserving,
)
from lightning_gen.diffusion.reverse_variances import largest, smallest
from lightning_gen.diffusion.variance_models import reverse_kl
from lightning_gen.errors import UserError


def levels(path, times, schedule=None):
    return path.at(schedule or Cosine(), torch.as_tensor(times, dtype=torch.float64))


@pytest.mark.parametrize("path", [VariancePreserving(), VarianceExploding()])
def test_tracked_errors_become_the_posterior_variance(path):
    """Gaussian data and their exact denoiser: Var(x0 | x_t) = s^2 sigma^2 / (alpha^2 s^2 + sigma^2)."""
    s2 = 0.4
    denoiser = GaussianDenoiser(torch.zeros(3, dtype=torch.float64), s2 * torch.eye(3), path)
    tracked = TrackedVariance(bins=48)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        level = levels(path, torch.rand(2000, generator=generator))
        x0, eps = torch.randn(2, 2000, 3, generator=generator, dtype=torch.float64)
        said = denoiser(level.diffuse(s2**0.5 * x0, eps), level.logsnr)
        tracked.observe((eps - said.eps).square().mean(1), level)
    level = levels(path, [0.2, 0.5, 0.8])
    x = torch.zeros(3, 3, dtype=torch.float64)
    exact = s2 * level.sigma**2 / (level.alpha**2 * s2 + level.sigma**2)
    said = tracked.extend(denoiser(x, level.logsnr)._replace(variance=None), None, level)
    torch.testing.assert_close(said.variance, exact, rtol=0.06, atol=0)
    torch.testing.assert_close(denoiser(x, level.logsnr).variance, exact)


def test_tracked_errors_forget():
    """A mean over about `memory` examples: what was right for another network fades."""
    tracked = TrackedVariance(bins=2, lowest=-1.0, highest=1.0, memory=100)
    level = levels(VariancePreserving(), [0.0] * 50)
    for _ in range(10):
        tracked.observe(torch.full((50,), 5.0), level)
    assert tracked.noise_mse.tolist() == pytest.approx([math.exp(-1), 5.0])  # one that has met none: Var(x0) is 1
    for _ in range(20):
        tracked.observe(torch.full((50,), 2.0), level)
    assert tracked.noise_mse[1].item() == pytest.approx(2.0, abs=1e-4)


def test_where_nothing_was_met_the_doubt_is_bounded():
    """EDM's times hardly ever reach its noisiest levels: there Var(x0 | x_t) must not grow with the noise."""
    tracked = TrackedVariance()
    level = levels(VarianceExploding(), [0.0, 0.5, 1.0], Cosine(logsnr_min=-18.0))
    x = torch.zeros(3, 2)
    assert tracked.extend(Prediction(x, x), None, level).variance.max() <= 1 + 1e-5


def test_the_closed_form_of_a_training_set():
    examples = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, 2.0]], dtype=torch.float64)
    level = levels(VariancePreserving(), 0.5)
    x = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    weights = torch.stack(
        [torch.distributions.Normal(level.alpha * e, level.sigma).log_prob(x).sum(1) for e in examples], 1
    ).softmax(1)
    mean = weights @ examples
    spread = (weights[..., None] * (examples - mean[:, None]).square()).sum(1).mean(1)
    said = TrainingSetDenoiser(examples, VariancePreserving())(x, level.logsnr)
    torch.testing.assert_close(said.variance, spread)


def test_the_reverse_kl_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    x0, x0_hat, x_t = torch.randn(3, 5, 2, generator=generator, dtype=torch.float64)
    at, to = levels(VariancePreserving(), 0.5), levels(VariancePreserving(), 0.4)
    c = 1 - torch.exp(at.logsnr - to.logsnr)
    shrink = at.alpha / to.alpha * (to.sigma / at.sigma) ** 2
    variance = 0.3 + torch.rand(5, 2, generator=generator, dtype=torch.float64)
    normal = torch.distributions.Normal
    q = normal(shrink * x_t + to.alpha * c * x0, smallest(at, to).sqrt())
    p = normal(shrink * x_t + to.alpha * c * x0_hat, variance.sqrt())
    torch.testing.assert_close(reverse_kl(x0, x0_hat, variance, at, to), torch.distributions.kl_divergence(q, p))
    # with the smallest variance it is the bound's own term
    eps_error = at.alpha / at.sigma * (x0 - x0_hat)
    small = FixedSmall()(Prediction(x0, x0), at, to)
    expected = 0.5 * torch.expm1(to.logsnr - at.logsnr) * eps_error**2
    torch.testing.assert_close(reverse_kl(x0, x0_hat, small, at, to), expected)


def test_the_two_bounds_are_those_of_the_chain():
    """Ho et al. 2020: beta and beta (1 - abar_{t-1}) / (1 - abar_t), on the VP path."""
    at, to = (levels(VariancePreserving(), t, LinearBeta()) for t in (0.6, 0.55))
    beta = 1 - (at.alpha / to.alpha) ** 2
    torch.testing.assert_close(largest(at, to), beta)
    torch.testing.assert_close(smallest(at, to), beta * to.sigma**2 / at.sigma**2)


def test_a_fresh_network_says_half_of_the_way():
    x = torch.zeros(2, 3)
    said = LearnedVariance().extend(Prediction(x, x), torch.zeros_like(x), None)
    torch.testing.assert_close(said.share, torch.full_like(x, 0.5))


@pytest.mark.parametrize("make", [lambda: LearnedVariance(steps=1), lambda: TrackedVariance(bins=1)])
def test_nonsense_is_refused(make):
    with pytest.raises(UserError):
        make()
