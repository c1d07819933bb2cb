"""Laws of the mixture: a joint distribution of a pixel's channels, drawn and read as it is written."""

import itertools

import pytest
import torch

from lightning_gen.random_source import GeneratorSource
from lightning_gen.vae.observations import DiscretizedLogistic, MixtureOfLogistics


def bound(shape, levels, components):
    observation = MixtureOfLogistics(components)
    observation.bind(shape, levels)
    return observation


def pixel(channels, levels, components, seed=0, dtype=torch.float64):
    """(the observation of one pixel, some output for it, all its values, their log-probabilities)."""
    observation = bound((channels, 1, 1), levels, components)
    generator = torch.Generator().manual_seed(seed)
    out = 1.5 * torch.randn(1, *observation.out_shape, generator=generator, dtype=torch.float64) - 0.5
    x = torch.tensor(list(itertools.product(range(levels), repeat=channels)), dtype=torch.uint8)
    x = x.view(-1, channels, 1, 1)
    return observation, out, x, observation.log_prob(out.to(dtype).expand(len(x), -1, 1, 1), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels, levels, components", [(1, 256, 10), (2, 9, 3), (3, 6, 1), (3, 7, 4), (4, 3, 2)])
def test_all_values_of_a_pixel_sum_to_one(channels, levels, components, dtype):
    log_prob = pixel(channels, levels, components, dtype=dtype)[-1]
    assert log_prob.dtype == dtype
    assert log_prob.double().exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_the_size_of_its_output():
    """PixelCNN++: 10 numbers for each component of a colour image."""
    assert bound((3, 4, 4), 256, 10).out_shape == (100, 4, 4)
    assert bound((1, 4, 4), 256, 5).out_shape == (15, 4, 4)
    assert bound((7,), 256, 5).out_shape == (105,)


def test_one_component_of_one_channel_is_the_discretized_logistic():
    mixture, single = bound((1, 3, 2), 256, 1), DiscretizedLogistic()
    single.bind((1, 3, 2), 256)
    generator = torch.Generator().manual_seed(0)
    out = torch.randn(5, 3, 3, 2, generator=generator)
    x = torch.randint(256, (5, 1, 3, 2), generator=generator).to(torch.uint8)
    torch.testing.assert_close(mixture.log_prob(out, x), single.log_prob(out[:, 1:], x))


def test_a_channel_follows_the_data_of_those_before():
    """With one component p(x_3 | x_1, x_2) is the discretised logistic at m_3 + c_31 x_1 + c_32 x_2, x in [-1, 1]."""
    levels = 6
    observation, out, _, log_prob = pixel(3, levels, 1, seed=3)
    table = log_prob.view(levels, levels, levels)
    conditional = table - table.logsumexp(2, keepdim=True)
    _, _, _, m3, _, _, s3, _, c31, c32 = out.flatten().tolist()
    third = DiscretizedLogistic()
    third.bind((1,), levels)
    v = observation.encode(torch.arange(levels)).double()
    location = m3 + torch.tensor(c31).tanh() * v[:, None] + torch.tensor(c32).tanh() * v[None]
    settings = torch.stack([location.flatten(), torch.full((levels**2,), s3)], 1).double()
    expected = [third.log_prob(settings, torch.full((levels**2, 1), level)) for level in range(levels)]
    torch.testing.assert_close(conditional, torch.stack(expected, 1).view_as(table), rtol=1e-6, atol=1e-6)


def test_a_component_has_all_channels_of_its_pixel_but_not_of_the_next():
    """Two sure components: the channels of a pixel agree, two pixels need not."""
    observation = bound((2, 1, 2), 11, 2)
    parts = torch.zeros(6, 2, 1, 2)  # logits, 2 locations, 2 log-scales, coefficient; components; places
    parts[1:3] = torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
    parts[3:5] = -5.0
    x = observation.sample(parts.view(1, -1, 1, 2).expand(4000, -1, -1, -1), GeneratorSource(0))
    assert torch.equal(x[:, 0], x[:, 1])
    agree = (x[:, 0, 0, 0] == x[:, 0, 0, 1]).float().mean().item()
    assert agree == pytest.approx(0.5, abs=4 * 0.5 / 4000**0.5)


@pytest.mark.parametrize("channels, levels, components", [(1, 12, 4), (2, 4, 3), (3, 3, 2)])
def test_samples_come_as_often_as_they_should(channels, levels, components):
    observation, out, x, log_prob = pixel(channels, levels, components, seed=1)
    n = 40000
    drawn = observation.sample(out.expand(n, -1, 1, 1), GeneratorSource(2)).view(n, channels).long()
    index = (drawn * levels ** torch.arange(channels - 1, -1, -1)).sum(1)
    expected = n * log_prob.exp()
    counts = torch.bincount(index, minlength=len(x)).double()
    frequent = expected > 5
    chi2 = ((counts - expected).square() / expected)[frequent].sum().item()
    freedom = frequent.sum().item()
    assert chi2 < freedom + 4 * (2 * freedom) ** 0.5
    assert counts[~frequent].sum() < expected[~frequent].sum() + 4 * expected[~frequent].sum().sqrt() + 1


@pytest.mark.parametrize("seed", range(5))
def test_mode_and_mean_of_one_channel_are_exact(seed):
    observation, out, x, log_prob = pixel(1, 50, 4, seed)
    assert torch.equal(observation.mode(out)[0], x[log_prob.argmax()])
    expected = (log_prob.exp() * x.flatten()).sum()
    assert observation.mean(out).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_mode_goes_channel_by_channel(seed):
    levels = 6
    observation, out, _, log_prob = pixel(3, levels, 3, seed)
    table, mode = log_prob.exp().view(levels, levels, levels), []
    while table.ndim:
        mode.append(table.flatten(1).sum(1).argmax().item() if table.ndim > 1 else table.argmax().item())
        table = table[mode[-1]]
    assert observation.mode(out).flatten().tolist() == mode


def test_the_mean_of_later_channels_is_near():
    """To a tenth of a level where the locations are within the range; where they are not, to one."""
    levels = 40
    observation, out, x, log_prob = pixel(2, levels, 3, seed=0)
    parts = out.view(6, 3)
    parts[1:3] = torch.tensor([[-0.3, 0.0, 0.4], [0.2, -0.2, 0.1]])
    for log_scale, tolerance in ((-3.0, 0.1), (-1.0, 1.0)):
        parts[3:5] = log_scale
        log_prob = observation.log_prob(out.expand(len(x), -1, 1, 1), x)
        expected = (log_prob.exp().view(-1, 1, 1, 1) * x).sum(0)
        assert (observation.mean(out)[0] - expected).abs().max() < tolerance


@pytest.mark.parametrize("components", [1, 2, 10])
def test_the_start_has_the_moments_of_the_data(components):
    observation = bound((2, 1, 1), 256, components)
    spread, generator = torch.tensor([10.0, 25.0]).view(2, 1, 1), torch.Generator().manual_seed(0)
    x = torch.tensor([90.0, 140.0]).view(2, 1, 1) + spread * torch.randn(4000, 2, 1, 1, generator=generator)
    x = x.round().clamp(0, 255).to(torch.uint8)
    start = observation.initial(x)
    drawn = observation.sample(start.expand(20000, -1, -1, -1), GeneratorSource(1)).float()
    torch.testing.assert_close(drawn.std(0), spread, rtol=0.04, atol=0)
    torch.testing.assert_close(drawn.mean(0), x.float().mean(0), rtol=0.01, atol=0)


def test_gradients_are_finite_far_out_and_where_it_is_sure():
    observation = bound((3, 1, 1), 256, 2)
    out = torch.zeros(1, *observation.out_shape)
    parts = out.view(10, 2)
    parts[0], parts[1:4], parts[4:7] = torch.tensor([50.0, -50.0]), -1.0, -7.0
    out.requires_grad_()
    log_prob = observation.log_prob(out, torch.full((1, 3, 1, 1), 255, dtype=torch.uint8))
    log_prob.sum().backward()
    assert log_prob.item() < -6000 and out.grad.isfinite().all()
