"""Laws of the closed forms: Bayes' rule, Tweedie, the noise error of Gaussian data, and convergence on the data."""

import pytest
import torch
from torch import nn

from lightning_gen.diffusion import (
    Cosine,
    GaussianDenoiser,
    Linear,
    NetworkDenoiser,
    NoisePrediction,
    TrainingSetDenoiser,
    VariancePreserving,
)

PATHS = [VariancePreserving(), Linear()]


def gaussian(path, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    mean = torch.randn(dim, generator=generator, dtype=torch.float64)
    return GaussianDenoiser(mean, root @ root.T, path), mean, root @ root.T


@pytest.mark.parametrize("path", PATHS)
def test_gaussian_denoiser_satisfies_tweedie(path):
    """eps_hat = -sigma grad log p_t(x_t), with p_t Gaussian (autograd of torch.distributions is the oracle)."""
    denoiser, mean, cov = gaussian(path)
    logsnr = torch.tensor(0.7, dtype=torch.float64)
    alpha, sigma, _, _ = path.scales(logsnr)
    marginal = torch.distributions.MultivariateNormal(alpha * mean, alpha**2 * cov + sigma**2 * torch.eye(4))
    x = torch.randn(10, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (score,) = torch.autograd.grad(marginal.log_prob(x).sum(), x)
    prediction = denoiser(x.detach(), logsnr)
    torch.testing.assert_close(prediction.eps, -sigma * score)
    torch.testing.assert_close(alpha * prediction.x0 + sigma * prediction.eps, x.detach())


@pytest.mark.parametrize("path", PATHS)
def test_noise_error_of_gaussian_data(path):
    """E |eps - eps_hat|^2 = SNR s^2 / (1 + SNR s^2) per dimension of variance s^2."""
    s2 = 0.4
    denoiser = GaussianDenoiser(torch.zeros(1, dtype=torch.float64), s2 * torch.eye(1), path)
    generator = torch.Generator().manual_seed(2)
    x0, eps = torch.randn(2, 200_000, 1, generator=generator, dtype=torch.float64)
    for value in (-4.0, 0.0, 3.0):
        logsnr = torch.tensor(value, dtype=torch.float64)
        alpha, sigma, _, _ = path.scales(logsnr)
        error = (eps - denoiser(alpha * s2**0.5 * x0 + sigma * eps, logsnr).eps).square().mean()
        snr = logsnr.exp()
        assert error.item() == pytest.approx((snr * s2 / (1 + snr * s2)).item(), rel=0.02)


def test_fit_recovers_mean_and_covariance():
    x = torch.randn(500, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    denoiser = GaussianDenoiser.fit(x, VariancePreserving())
    cov = denoiser.vectors @ torch.diag(denoiser.values) @ denoiser.vectors.T
    torch.testing.assert_close(cov, torch.cov(x.flatten(1).T, correction=0))
    torch.testing.assert_close(denoiser.mean, x.mean(0))


def test_images_are_denoised_as_their_pixels():
    """The shape of the data, and a level per example, change nothing."""
    path = VariancePreserving()
    flat, mean, cov = gaussian(path)
    image = GaussianDenoiser(mean.reshape(1, 2, 2), cov, path)
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    logsnr = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    together = image(x.reshape(3, 1, 2, 2), logsnr).x0.reshape(3, 4)
    alone = torch.cat([flat(x[i : i + 1], logsnr[i]).x0 for i in range(3)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("path", PATHS)
def test_training_set_denoiser_is_bayes_rule(path):
    examples = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, 2.0]], dtype=torch.float64)
    denoiser = TrainingSetDenoiser(examples, path)
    logsnr = torch.tensor(0.3, dtype=torch.float64)
    alpha, sigma, _, _ = path.scales(logsnr)
    x = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    likelihood = torch.stack(
        [torch.distributions.Normal(alpha * e, sigma).log_prob(x).sum(1).exp() for e in examples], 1
    )
    expected = likelihood @ examples / likelihood.sum(1, keepdim=True)
    torch.testing.assert_close(denoiser(x, logsnr).x0, expected)


def test_training_set_denoiser_lands_on_examples_and_on_the_mean():
    examples = torch.randn(50, 6, generator=torch.Generator().manual_seed(6))
    denoiser = TrainingSetDenoiser(examples, VariancePreserving())
    near = denoiser(examples + 1e-3, torch.tensor(14.0)).x0
    torch.testing.assert_close(near, examples)
    far = denoiser(torch.zeros(1, 6), torch.tensor(-30.0)).x0
    torch.testing.assert_close(far[0], examples.mean(0), atol=1e-3, rtol=1e-3)
    labels = torch.arange(50) % 2
    of_class = TrainingSetDenoiser(examples, VariancePreserving(), labels)(
        torch.zeros(1, 6), torch.tensor(-30.0), torch.tensor([1])
    )
    torch.testing.assert_close(of_class.x0[0], examples[1::2].mean(0), atol=1e-3, rtol=1e-3)


class Echo(nn.Module):
    """Returns x plus its log-SNR, so that what reaches a network can be read off its output."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x, logsnr, cond=None):
        assert x.dtype == torch.float32 and logsnr.dtype == torch.float32 and logsnr.shape == (len(x),)
        return x + logsnr[:, None] + self.weight


def test_network_denoiser_keeps_the_state_and_the_level_exact():
    denoiser = NetworkDenoiser(Echo(), NoisePrediction(), Cosine(), VariancePreserving())
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    logsnr = torch.tensor(1.25, dtype=torch.float64)
    prediction = denoiser(x, logsnr)
    assert prediction.x0.dtype == torch.float64
    torch.testing.assert_close(prediction.eps, (x.float() + 1.25).double(), atol=1e-6, rtol=0)
    alpha, sigma, _, _ = VariancePreserving().scales(logsnr)
    torch.testing.assert_close(alpha * prediction.x0 + sigma * prediction.eps, x)
