"""What a denoiser makes of a network, of classes and of what is known."""

import math

import torch
from torch import nn

from lightning_gen.closed_forms import GaussianPosterior
from lightning_gen.dae import Informed, LinearDenoiser, NetworkDenoiser, OptimalDenoiser, Plain, Preconditioned


class Echo(nn.Module):
    """Shows what reaches a network."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x, logsnr, cond=None):
        assert x.dtype == torch.float32 and logsnr.dtype == torch.float32 and logsnr.shape == (len(x),)
        return x + 100 * logsnr[:, None] + self.weight


def test_a_network_is_told_the_level_as_log_snr_and_the_state_keeps_its_dtype():
    x = torch.ones(2, 3, dtype=torch.float64)
    out = NetworkDenoiser(Echo(), Plain())(x, torch.tensor([1.0, math.e]))
    assert out.dtype == torch.float64
    torch.testing.assert_close(out[:, 0], torch.tensor([1.0, -199.0], dtype=torch.float64))


def test_preconditioning_stands_around_the_network():
    x = torch.full((1, 3), 5.0)
    denoiser = NetworkDenoiser(Echo(), Preconditioned(3.0))
    # sigma = 4: skip 9/25, out 12/5, into 1/5
    expected = 9 / 25 * 5 + 12 / 5 * (5 / 5 - 200 * math.log(4))
    torch.testing.assert_close(denoiser(x, torch.tensor(4.0)), torch.full((1, 3), expected))


def test_each_class_has_its_own_linear_denoiser():
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(2, 50, 3, generator=generator) + torch.tensor([[[0.0]], [[5.0]]])
    fits = [GaussianPosterior.fit(part) for part in data]
    denoiser = LinearDenoiser(GaussianPosterior.fit(data.flatten(0, 1)), fits)
    x, y, sigma = torch.randn(6, 3, generator=generator), torch.tensor([0, 1, 1, 0, 1, 0]), torch.arange(1.0, 7.0)
    for k in range(2):
        alone = LinearDenoiser(fits[k])(x[y == k], sigma[y == k])
        torch.testing.assert_close(denoiser(x, sigma, y)[y == k], alone)
    whole = LinearDenoiser(denoiser.whole)(x, sigma)
    torch.testing.assert_close(denoiser(x, sigma), whole)
    assert not torch.allclose(whole, denoiser(x, sigma, y))


def test_what_is_known_is_the_answer_there():
    examples = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    inner, mask = OptimalDenoiser(examples), torch.tensor([True, False, False, True])
    x, known = torch.zeros(3, 4), torch.full((3, 4), 7.0)
    out = Informed(inner, known, mask)(x, torch.tensor(0.5))
    torch.testing.assert_close(out[:, mask], known[:, mask])
    torch.testing.assert_close(out[:, ~mask], inner(x, torch.tensor(0.5))[:, ~mask])
