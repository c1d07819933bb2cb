"""Laws of binary pixels."""

import itertools
import math

import pytest
import torch

from lightning_gen.random_source import GeneratorSource
from lightning_gen.vae.observations import Bernoulli


@pytest.fixture
def four_pixels():
    observation = Bernoulli()
    observation.bind((1, 2, 2), 2)
    return observation, torch.tensor([[[[-3.0, 0.2], [1.0, 9.0]]]], dtype=torch.float64)


def test_all_images_sum_to_one(four_pixels):
    observation, out = four_pixels
    x = torch.tensor(list(itertools.product((0, 1), repeat=4)), dtype=torch.uint8).view(16, 1, 2, 2)
    log_prob = observation.log_prob(out.expand(16, 1, 2, 2), x)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-12)
    torch_says = torch.distributions.Bernoulli(logits=out).log_prob(x.double()).flatten(1).sum(1)
    torch.testing.assert_close(log_prob, torch_says)
    assert torch.equal(observation.mode(out)[0], x[log_prob.argmax()])
    torch.testing.assert_close(observation.mean(out)[0], (log_prob.exp().view(-1, 1, 1, 1) * x).sum(0).float())


@pytest.mark.parametrize("dtype, rel", [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_certainty_costs_what_it_should(dtype, rel):
    """Right or wrong, sure to any degree: log1p(e^-30) and not 0, 21 + log1p(e^-21) and not 21."""
    observation = Bernoulli()
    observation.bind((2,), 2)
    out = torch.tensor([[1e4, -1e4], [1e4, 1e4], [30.0, -30.0], [21.0, 1e4]], dtype=dtype, requires_grad=True)
    x = torch.tensor([[1, 0], [0, 1], [1, 0], [0, 1]], dtype=torch.uint8)
    log_prob = observation.log_prob(out, x)
    log_prob.sum().backward()
    expected = [0, -1e4, -2 * math.log1p(math.exp(-30)), -21 - math.log1p(math.exp(-21))]
    assert log_prob.tolist() == pytest.approx(expected, rel=rel, abs=0)
    assert out.grad[1].tolist() == [-1, 0]


def test_few_nats_beside_sure_pixels_keep_their_digits():
    """The sum over x out and that over softplus(out) are each 10^5 here: their difference in float32 is off by 0.01."""
    observation = Bernoulli()
    observation.bind((784,), 2)
    out = 200 + torch.randn(8, 784, generator=torch.Generator().manual_seed(0))
    out[:, :50] = torch.randn(8, 50, generator=torch.Generator().manual_seed(1))
    x = torch.ones(8, 784, dtype=torch.uint8)
    exact = observation.log_prob(out.double(), x)
    torch.testing.assert_close(observation.log_prob(out, x).double(), exact, rtol=1e-6, atol=0)


def test_samples_come_as_often_as_they_should(four_pixels):
    observation, out = four_pixels
    n, p = 20000, out.sigmoid().squeeze()
    mean = observation.sample(out.expand(n, 1, 2, 2), GeneratorSource(0)).float().mean((0, 1))
    assert ((mean - p).abs() < 4 * (p * (1 - p) / n).sqrt() + 1e-12).all()


def test_the_start_is_the_most_likely_constant():
    """Of the data with half a 0 and half a 1 added; so that a pixel that never changes has a finite logit."""
    observation = Bernoulli()
    observation.bind((3,), 2)
    x = torch.tensor([[0, 1, 1], [0, 1, 0], [0, 1, 1]], dtype=torch.uint8)
    torch.testing.assert_close(observation.initial(x).sigmoid(), torch.tensor([0.125, 0.875, 0.625]))
    assert observation.encode(x).tolist() == x.tolist()
