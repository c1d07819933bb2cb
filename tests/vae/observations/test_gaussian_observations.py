"""Laws of real vectors around a mean, and of the standard deviation that follows the errors."""

import math

import pytest
import torch

from lightning_gen.random_source import GeneratorSource
from lightning_gen.vae.observations import CalibratedGaussian, FixedGaussian, LearnedGaussian

MEAN = torch.tensor([[0.3, -1.0, 2.0]])


def bound(observation):
    observation.bind((3,), None)
    return observation


def vectors(n, std=1.0, seed=0):
    return MEAN + std * torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))


def with_std(std):
    """Every Gaussian that can have this standard deviation everywhere: (observation, output at MEAN)."""
    learned, shared, calibrated = LearnedGaussian(), LearnedGaussian(shared_scale=True), CalibratedGaussian()
    shared.log_scale.data.fill_(math.log(std))
    calibrated.mse.fill_(std**2)
    for observation in (FixedGaussian(std), shared, calibrated):
        yield bound(observation), MEAN
    yield bound(learned), torch.cat([MEAN, torch.full_like(MEAN, math.log(std))], 1)


@pytest.mark.parametrize("std", [1e-3, 0.5, 20.0])
def test_each_is_the_normal_distribution(std):
    x = vectors(50, std)
    expected = torch.distributions.Normal(MEAN.double(), std).log_prob(x.double()).sum(1)
    for observation, out in with_std(std):
        out = out.expand(50, -1)
        torch.testing.assert_close(observation.log_prob(out.double(), x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(observation.mean(out), MEAN.expand(50, -1))
        torch.testing.assert_close(observation.mode(out), MEAN.expand(50, -1))


def test_samples_have_the_moments():
    for observation, out in with_std(0.2):
        x = observation.sample(out.expand(20000, -1), GeneratorSource(0))
        assert ((x.mean(0) - MEAN[0]).abs() < 4 * 0.2 / 20000**0.5).all()
        torch.testing.assert_close(x.std(0), torch.full((3,), 0.2), rtol=0.02, atol=0)


def test_a_std_of_each_element_is_its_own():
    observation = bound(LearnedGaussian())
    assert observation.out_shape == (6,)
    std = torch.tensor([0.1, 1.0, 5.0])
    x = vectors(9)
    expected = torch.distributions.Normal(MEAN, std).log_prob(x).sum(1)
    torch.testing.assert_close(observation.log_prob(torch.cat([MEAN[0], std.log()]).expand(9, -1), x), expected)


def test_the_start_is_the_most_likely_constant():
    """No other mean or standard deviation, constant in z, is likelier: the gradient there is none."""
    x = vectors(500, std=0.7)
    for observation in (FixedGaussian(2.0), LearnedGaussian(), LearnedGaussian(shared_scale=True)):
        start = bound(observation).initial(x).requires_grad_()
        observation.log_prob(start.expand(500, -1), x).mean().backward()
        assert start.grad.abs().max() < 1e-4
        assert all(p.grad.abs().max() < 1e-4 for p in observation.parameters())


# ---- calibrated ---------------------------------------------------------------------------------------------------


def test_the_calibrated_std_maximises_the_likelihood_of_what_it_observed():
    """Of three batches that differ in size and in how well they were met."""
    observation = bound(CalibratedGaussian())
    batches = [
        (MEAN + offset, vectors(n, std, seed=n)) for n, std, offset in ((40, 1.0, 0), (25, 0.1, 0.5), (3, 3.0, 0))
    ]
    for mean, x in batches:
        observation.observe(mean.expand(len(x), -1), x)
    out, x = torch.cat([mean.expand(len(x), -1) for mean, x in batches]), torch.cat([x for _, x in batches])
    found = observation.log_prob(out, x).sum()
    std = observation.mse.sqrt().item()
    others = [bound(FixedGaussian(std * factor)).log_prob(out, x).sum() for factor in (0.97, 1.0, 1.03)]
    torch.testing.assert_close(found, others[1])
    assert others[0] < found > others[2]


def test_observing_several_samples_is_observing_each():
    x = vectors(10)
    out = torch.cat([MEAN.expand(10, -1), MEAN.expand(10, -1) + 2])
    several, one = bound(CalibratedGaussian()), bound(CalibratedGaussian())
    several.observe(out, x)
    torch.testing.assert_close(several.mse, (out - x.repeat(2, 1)).square().mean())
    one.observe(MEAN.expand(10, -1), x)
    assert several.seen == one.seen == 10


def test_no_likelihood_depends_on_its_batch():
    observation = bound(CalibratedGaussian())
    observation.observe(MEAN.expand(20, -1), vectors(20))
    before = {name: value.clone() for name, value in observation.state_dict().items()}
    x = vectors(8, std=5.0, seed=1)
    out = MEAN.expand(8, -1)
    whole = observation.train().log_prob(out, x)
    torch.testing.assert_close(whole[3:5], observation.log_prob(out[3:5], x[3:5]))
    observation.sample(out, GeneratorSource(0)), observation.mean(out)
    assert before.keys() == {"mse", "seen"}
    assert all(torch.equal(value, observation.state_dict()[name]) for name, value in before.items())


def test_what_was_observed_long_ago_fades():
    observation = bound(CalibratedGaussian(memory=100))
    out, zeros = torch.zeros(50, 3), torch.zeros(50, 3)
    for error, batches in ((5.0, 10), (2.0, 20)):
        for _ in range(batches):
            observation.observe(out + error, zeros)
    assert observation.mse.item() == pytest.approx(4.0, abs=1e-4)
    assert observation.seen == 100


def test_a_batch_larger_than_the_memory_replaces_what_was():
    observation = bound(CalibratedGaussian(memory=10))
    for error in (5.0, 2.0):
        observation.observe(torch.full((50, 3), error), torch.zeros(50, 3))
    assert observation.mse == 4


def test_its_record_survives_any_cast():
    observation = bound(CalibratedGaussian())
    for _ in range(3):
        observation.observe(MEAN.expand(333, -1), vectors(333))
    mse = observation.mse.clone()
    cast = torch.nn.Sequential(observation).to(torch.bfloat16)[0]
    assert cast.mse.dtype == cast.seen.dtype == torch.float32
    assert torch.equal(cast.mse, mse) and cast.seen == 999


def test_a_step_may_observe_before_it_goes_backward():
    """The errors of a batch are noted after its loss, in place, and the loss still has its gradient: that of its own std."""
    observation = bound(CalibratedGaussian())
    observation.mse.fill_(4.0)
    x, out = vectors(5), MEAN.expand(5, -1).clone().requires_grad_()
    loss = observation.log_prob(out, x).sum()
    observation.observe(out, x)
    loss.backward()
    torch.testing.assert_close(out.grad, (x - out.detach()) / 4)
    assert not observation.mse.requires_grad


def test_before_any_error_it_takes_that_of_the_mean():
    observation = bound(CalibratedGaussian())
    x = vectors(2000, std=0.3)
    torch.testing.assert_close(observation.initial(x), MEAN[0], rtol=0, atol=0.03)
    assert observation.mse.sqrt().item() == pytest.approx(0.3, rel=0.03)
    observation.observe(x + 1, x)  # the first error replaces it
    assert observation.mse.item() == pytest.approx(1.0, rel=1e-5)
