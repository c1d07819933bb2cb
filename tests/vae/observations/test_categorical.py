"""Laws of levels as classes."""

import itertools

import pytest
import torch

from lightning_gen.random_source import GeneratorSource
from lightning_gen.vae.observations import Categorical


def logits(levels, shape, rows=1):
    return 2 * torch.randn(rows, levels, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_two_pixels_sum_to_one_and_agree_with_torch():
    observation = Categorical()
    observation.bind((2, 1, 1), 4)
    x = torch.tensor(list(itertools.product(range(4), repeat=2)), dtype=torch.uint8).view(16, 2, 1, 1)
    free = logits(4, (2, 1, 1))
    out = free.flatten(1, 2)
    log_prob = observation.log_prob(out.expand(16, -1, 1, 1), x)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-12)
    expected = torch.distributions.Categorical(logits=free.movedim(1, -1)).log_prob(x.long()).flatten(1).sum(1)
    torch.testing.assert_close(log_prob, expected)
    assert torch.equal(observation.mode(out)[0], x[log_prob.argmax()])
    torch.testing.assert_close(observation.mean(out)[0], (log_prob.exp().view(-1, 1, 1, 1) * x).sum(0).float())


def test_an_improbable_level_keeps_its_digits():
    observation = Categorical()
    observation.bind((1,), 3)
    out = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    log_prob = observation.log_prob(out, torch.tensor([[2]], dtype=torch.uint8))
    log_prob.sum().backward()
    assert log_prob.item() == -2e4
    assert out.grad.tolist() == [[-1, 0, 1]]


def test_samples_come_as_often_as_they_should():
    observation = Categorical()
    observation.bind((1, 2), 6)
    n, free = 20000, logits(6, (1, 2))
    p = free.softmax(1)[0, :, 0]
    x = observation.sample(free.flatten(1, 2).expand(n, -1, -1), GeneratorSource(0))
    counts = torch.stack([(x == level).sum((0, 1)) for level in range(6)])
    chi2 = ((counts - n * p).square() / (n * p)).sum()
    assert chi2 < 35  # of 10 degrees of freedom: 1 in 10^4


def test_the_start_is_the_frequencies():
    observation = Categorical()
    observation.bind((2,), 4)
    x = torch.tensor([[0, 3], [0, 3], [1, 3]], dtype=torch.uint8)
    probs = observation.initial(x).view(4, 2).softmax(0)
    expected = torch.tensor([[2.25, 0.25], [1.25, 0.25], [0.25, 0.25], [0.25, 3.25]]) / 4
    torch.testing.assert_close(probs, expected)
