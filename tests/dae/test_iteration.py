"""Attractors: the training set's images of the optimal denoiser, the mean of the linear one; what theory says of each."""

import pytest
import torch

from datamodules import Digits
from lightning_gen.closed_forms import GaussianPosterior
from lightning_gen.dae import Denoiser, LinearDenoiser, OptimalDenoiser, iterate
from lightning_gen.errors import NonFiniteSamples, UserError


@pytest.fixture(scope="module")
def digits():
    """400 images in [-1, 1], float64."""
    return Digits().split("train").x[:400].double() / 8 - 1


def apart(a, b):
    return (a - b).flatten(1).square().mean(1).sqrt()


def noise(x, std, seed=0):
    return std * torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(seed))


def test_stored_images_are_attractors_of_the_optimal_denoiser(digits):
    found = iterate(OptimalDenoiser(digits), digits[:50] + noise(digits[:50], 0.15), 0.1)
    assert found.converged.all() and (found.steps <= 3).all()
    assert apart(found.points, digits[:50]).max() < 1e-4
    assert (found.residual < 1e-4).all()


def test_all_that_is_left_at_small_noise_is_the_training_set(digits):
    """From anywhere: what it was never shown, and noise."""
    start = torch.cat([digits[200:250].flip(-1), noise(digits[:50], 1.0)])
    found = iterate(OptimalDenoiser(digits), start, 0.02, eta=0.5)
    nearest = torch.cdist(found.points.flatten(1), digits.flatten(1)).min(1).values / 8
    assert found.converged.all() and nearest.max() < 1e-3


def test_the_linear_denoiser_keeps_no_image(digits):
    """From an image it drifts to the mean, the faster the less a direction varies: by (sigma^2 / (l + sigma^2))^-steps."""
    sigma, steps = 0.1, 200
    posterior = GaussianPosterior.fit(digits)
    found = iterate(LinearDenoiser(posterior), digits[:50], sigma, steps=steps)
    assert not found.converged.all() and apart(found.points, digits[:50]).min() > 0.05
    before, after = ((x.flatten(1) - posterior.mean) @ posterior.vectors for x in (digits[:50], found.points))
    left = (posterior.values / (posterior.values + sigma**2)) ** found.steps[:, None]
    torch.testing.assert_close(after, left * before)
    assert left[0, -1] > 0.2 and left[0, : len(left) // 2].max() < 1e-6
    home = iterate(LinearDenoiser(posterior), digits[:5], sigma, steps=100_000, tolerance=1e-9, eta=1.9)
    torch.testing.assert_close(home.points, posterior.mean.reshape(1, 1, 8, 8).expand(5, -1, -1, -1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("optimal", [True, False])
def test_at_large_noise_one_update_goes_to_the_mean_image(digits, optimal):
    denoiser = OptimalDenoiser(digits) if optimal else LinearDenoiser(GaussianPosterior.fit(digits))
    found = iterate(denoiser, digits[:20], 100.0, steps=1)
    mean = digits.mean(0, keepdim=True)
    assert apart(found.points, mean).max() < 5e-3 < 0.1 < apart(digits[:20], mean).min()


class Halves(Denoiser):
    """D(x) = x / 2, so that a step of 1 halves x; counts whom it is asked of."""

    def __init__(self):
        self.asked = []

    def __call__(self, x, sigma, y=None):
        assert y is None or torch.equal(y, x.sign().long()[:, 0])  # each has its own y still
        self.asked.append(len(x))
        return x / 2


def test_each_example_stops_by_itself():
    denoiser, x = Halves(), torch.tensor([[1.0], [-8.0], [1e-9]])
    found = iterate(denoiser, x, 1.0, x.sign().long()[:, 0], tolerance=0.1, stations=(0, 1, 9))
    # the residual is |x| / 2
    assert found.steps.tolist() == [3, 6, 0]
    torch.testing.assert_close(found.points, torch.tensor([[1 / 8], [-1 / 8], [1e-9]]))
    torch.testing.assert_close(found.residual, found.points.abs()[:, 0] / 2)
    assert denoiser.asked == [3, 2, 2, 2, 1, 1, 1]
    torch.testing.assert_close(found.stations[:, :, 0], torch.tensor([[1, 0.5, 0.125], [-8, -4, -0.125], [1e-9] * 3]))
    assert x.tolist() == torch.tensor([[1.0], [-8.0], [1e-9]]).tolist()
    short = iterate(Halves(), x, 1.0, tolerance=0.1, steps=4)
    assert short.converged.tolist() == [True, False, True] and short.steps.tolist() == [3, 4, 0]


@pytest.mark.parametrize(
    "wrong", [{"eta": 0.0}, {"eta": 2.0}, {"steps": -1}, {"tolerance": -1.0}, {"tolerance": float("nan")}]
)
def test_what_is_no_iteration_is_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        iterate(Halves(), torch.ones(1, 1), 1.0, **wrong)


@pytest.mark.parametrize("factor", [3.0, float("nan")])
def test_points_that_are_not_finite_are_at_no_rest(factor):
    """x - D(x) = factor x: beyond 2 it runs away. One such example is enough."""

    def denoiser(x, sigma, y=None):
        return x - factor * x

    with pytest.raises(NonFiniteSamples, match="eta 1"):
        iterate(denoiser, torch.tensor([[0.0], [1.0]]), 1.0, steps=1000)
