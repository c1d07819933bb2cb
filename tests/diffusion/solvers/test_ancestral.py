"""The ancestral sampler and the variance of its step."""

import pytest
import torch

from lightning_gen.diffusion.denoisers import GaussianDenoiser, TrainingSetDenoiser
from lightning_gen.diffusion.parameterizations import posterior_mean
from lightning_gen.diffusion.paths import Linear, VariancePreserving
from lightning_gen.diffusion.reverse_variances import Analytic, FixedLarge, FixedSmall, smallest
from lightning_gen.diffusion.samplers import DiffusionSampler
from lightning_gen.diffusion.schedules import Cosine
from lightning_gen.diffusion.solvers import Ancestral
from lightning_gen.random_source import GeneratorSource


@pytest.mark.parametrize("variance", [FixedSmall(), FixedLarge(), Analytic()], ids=lambda v: type(v).__name__)
def test_weak_order(gaussian, axes, variance):
    """Whatever the variance, it is right in the limit."""
    assert gaussian.weak_order(Ancestral(variance), axes) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("steps", [2, 5, 20])
def test_the_analytic_variance_is_exact_where_all_directions_are_alike(gaussian, axes, tools, steps):
    """For isotropic Gaussian data p(x_s | x_t) is that Gaussian, so any grid reaches the marginal; only the last step,
    which adds no noise, does not. The small variance leaves too little spread and the large one, on a VP path, too much.
    """
    make, path = axes
    gaussian.stds = torch.full((2,), 0.5, dtype=torch.float64)
    levels = tools.levels(make(logsnr_min=-6.0, logsnr_max=6.0), path, steps)
    assert max(gaussian.weak_error(Ancestral(Analytic(), last_noise=True), levels)) < 1e-12
    assert max(gaussian.weak_error(Ancestral(Analytic()), levels)) > 1e-4
    levels = levels[:-1]
    assert max(gaussian.weak_error(Ancestral(Analytic()), levels)) < 1e-12
    exact = gaussian.marginal(levels[-1])[1].square().min()
    spread = {v: gaussian.reached(Ancestral(v()), levels)[1].trace() / 2 for v in (FixedSmall, FixedLarge)}
    assert spread[FixedSmall] < exact - 1e-3
    if isinstance(path, VariancePreserving):
        assert spread[FixedLarge] > exact + 1e-3


def test_large_and_small_variance_bracket_the_truth(gaussian, tools):
    """In few steps, per direction (Ho et al. 2020, sec. 3.2)."""
    levels = tools.levels(Cosine(), VariancePreserving(), 20)[:-1]
    gaussian.stds = torch.full((2,), 0.5, dtype=torch.float64)
    spread = [gaussian.reached(Ancestral(v), levels)[1].trace() for v in (FixedSmall(), Analytic(), FixedLarge())]
    assert spread[0] < spread[1] < spread[2]


@pytest.mark.parametrize("path", [VariancePreserving(), Linear()])
def test_posterior_is_bayes_rule(path):
    """q(x_s | x_t, x0) of scalars, against the product of q(x_s | x0) and q(x_t | x_s) normalised."""
    at, to = (path.at(Cosine(), torch.tensor(t, dtype=torch.float64)) for t in (0.55, 0.5))
    x, x0 = torch.tensor([0.3], dtype=torch.float64), torch.tensor([-0.8], dtype=torch.float64)
    ratio = at.alpha / to.alpha
    step_variance = at.sigma**2 - ratio**2 * to.sigma**2
    precision = 1 / to.sigma**2 + ratio**2 / step_variance
    expected = (to.alpha * x0 / to.sigma**2 + ratio * x / step_variance) / precision
    of_x, of_x0 = posterior_mean(at, to)
    torch.testing.assert_close(of_x * x + of_x0 * x0, expected)
    torch.testing.assert_close(smallest(at, to), 1 / precision)


def test_tiny_steps_do_not_cancel_in_float32():
    """exp(x) - 1 in float32 returns 0 for the variance of a step of 1e-9; expm1 keeps it."""
    path = VariancePreserving()
    levels = [path.at(Cosine(), t) for t in torch.tensor([0.5 + 1e-6, 0.5], dtype=torch.float64)]
    single, exact = smallest(*(level.to(torch.float32) for level in levels)), smallest(*levels)
    assert single.item() == pytest.approx(exact.item(), rel=0.1)
    assert single > 0


def test_memorising_denoiser_returns_training_examples():
    examples = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)) * 3
    memory = TrainingSetDenoiser(examples, VariancePreserving())
    x = DiffusionSampler(Ancestral(), 100).sample(memory, Cosine(), (50, 4), None, GeneratorSource(1))
    assert torch.cdist(x, examples).min(1).values.max() < 0.1


def test_the_last_step_adds_no_noise(tools):
    path = VariancePreserving()
    denoiser = GaussianDenoiser(torch.zeros(2), torch.eye(2), path)
    levels = tools.levels(Cosine(), path, 2)
    ends = [tools.integrate(Ancestral(), denoiser, levels[1:], torch.ones(3, 2), GeneratorSource(s)) for s in (0, 1)]
    assert torch.equal(*ends)
