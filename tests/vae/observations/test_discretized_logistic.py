"""Laws of levels with an order: units, shared scale, samples and start."""

import math

import pytest
import torch

from lightning_gen.random_source import GeneratorSource
from lightning_gen.vae.observations import DiscretizedLogistic


def bound(shape, levels, **settings):
    observation = DiscretizedLogistic(**settings)
    observation.bind(shape, levels)
    return observation


def test_fine_bins_are_a_density():
    """The mass of a narrow bin is the density at the encoded level times 2 / (L - 1), the encoder's units."""
    levels, location, log_scale = 20001, 0.3, -1.5
    observation = bound((1,), levels)
    x = torch.arange(1, levels - 1, 100)[:, None]
    out = torch.tensor([location, log_scale], dtype=torch.float64).expand(len(x), 2)
    at = (observation.encode(x).double() - location) / math.exp(log_scale)
    density = -at - log_scale - 2 * torch.nn.functional.softplus(-at)
    expected = (density + math.log(2 / (levels - 1)))[:, 0]
    torch.testing.assert_close(observation.log_prob(out, x), expected, rtol=0, atol=1e-5)


def test_a_shared_scale_is_that_scale_for_each_element():
    shared, each = bound((2, 3, 3), 256, shared_scale=True), bound((2, 3, 3), 256)
    assert shared.out_shape == (2, 3, 3) and each.out_shape == (4, 3, 3)
    assert not list(each.parameters())
    x = torch.randint(256, (4, 2, 3, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    shared.initial(x)
    location = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    out = torch.cat([location, shared.log_scale.detach().expand_as(location)], 1)
    found = shared.log_prob(location, x)
    torch.testing.assert_close(found, each.log_prob(out, x))
    found.sum().backward()
    assert shared.log_scale.grad.abs() > 0


def test_samples_come_as_often_as_they_should():
    observation, n = bound((3,), 5), 20000
    out = torch.tensor([-0.9, 0.1, 1.2, -1.0, -2.0, -0.5])
    levels = torch.arange(5)[:, None]
    prob = torch.stack([observation._bins(out[None]).log_prob(level)[0].exp() for level in levels])
    x = observation.sample(out.expand(n, 6), GeneratorSource(0))
    counts = torch.stack([(x == level).sum(0) for level in levels])
    chi2 = ((counts - n * prob).square() / (n * prob).clamp(min=1e-3)).sum(0)
    assert (chi2 < 24).all()  # of 4 degrees of freedom: 1 in 10^4


@pytest.mark.parametrize("shared", [False, True])
def test_the_start_has_the_moments_of_the_data(shared):
    observation = bound((2,), 256, shared_scale=shared)
    spread = torch.tensor([10.0, 25.0])
    x = (
        torch.tensor([90.0, 140.0]) + spread * torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    ).round()
    x = x.clamp(0, 255).to(torch.uint8)
    start = observation.initial(x)
    drawn = observation.sample(start.expand(20000, -1), GeneratorSource(1)).float()
    expected = spread.square().mean().sqrt().expand(2) if shared else spread
    torch.testing.assert_close(drawn.std(0), expected, rtol=0.04, atol=0)
    torch.testing.assert_close(drawn.mean(0), x.float().mean(0), rtol=0.01, atol=0)
