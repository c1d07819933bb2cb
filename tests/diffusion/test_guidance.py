"""Laws of classifier-free guidance, on class-conditional Gaussians whose guided score is known."""

import pytest
import torch

from lightning_gen.diffusion import ClassifierFree, Cosine, Denoiser, DiffusionSampler, Prediction, VariancePreserving
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource

CENTRES = torch.tensor([[-1.0, 0.5], [1.0, 0.5]], dtype=torch.float64)


class TwoClasses(Denoiser):
    """Data N(centre of the class, 1) given the class; N(0, 1) without one. On a VP path eps_hat = sigma (x - alpha mu)."""

    path = VariancePreserving()

    def __call__(self, x_t, logsnr, y=None):
        alpha, sigma = self._scales(x_t, logsnr)
        mean = torch.zeros_like(x_t) if y is None else CENTRES[y].to(x_t.dtype)
        eps = sigma * (x_t - alpha * mean)
        return Prediction((x_t - sigma * eps) / alpha, eps)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guided_score_is_the_combination(scale):
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(6) % 2
    logsnr = torch.tensor(0.4, dtype=torch.float64)
    guided = ClassifierFree(scale).wrap(TwoClasses())(x, logsnr, y)
    alpha, sigma, _, _ = VariancePreserving().scales(logsnr)
    torch.testing.assert_close(guided.eps, sigma * (x - scale * alpha * CENTRES[y]))
    torch.testing.assert_close(alpha * guided.x0 + sigma * guided.eps, x)  # still a consistent pair


def test_guided_samples_move_with_the_scale():
    """Guiding N(mu, 1) against N(0, 1) samples N(scale mu, 1)."""
    y = torch.zeros(4000, dtype=torch.long)
    for scale in (1.0, 3.0):
        sampler = DiffusionSampler(steps=60, guidance=ClassifierFree(scale))
        x = sampler.sample(TwoClasses(), Cosine(), (4000, 2), y, GeneratorSource(0))
        torch.testing.assert_close(x.mean(0).double(), scale * CENTRES[0], atol=0.1, rtol=0)


def test_it_costs_two_evaluations_and_needs_a_condition():
    assert DiffusionSampler(steps=5, guidance=ClassifierFree()).nfe == 10
    with pytest.raises(UserError, match="condition"):
        ClassifierFree().guide(TwoClasses(), torch.zeros(1, 2), torch.zeros(()), None)
