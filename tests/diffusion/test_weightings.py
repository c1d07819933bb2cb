"""Laws of the weightings: each is the loss its paper names, whatever the network predicts."""

import math

import pytest
import torch

from lightning_gen.diffusion import (
    P2,
    SNR,
    Cosine,
    DataPrediction,
    EDMPrediction,
    EDMWeighting,
    Elbo,
    FlowMatching,
    Karras,
    LearnedUncertainty,
    Linear,
    LogitNormal,
    LogNormal,
    MinSNR,
    NoisePrediction,
    SigmoidWeighting,
    Simple,
    SNRPlusOne,
    TruncatedSNR,
    VarianceExploding,
    VariancePreserving,
    VelocityPrediction,
    VPrediction,
)
from lightning_gen.random_source import GeneratorSource

LEVEL = VariancePreserving().at(Cosine(), torch.linspace(0.01, 0.99, 50, dtype=torch.float64))


def factor(weighting, parameterization, level=LEVEL):
    """What multiplies the mean squared error of the output under uniform t, twice the loss."""
    w = weighting(level, parameterization)
    return w * -level.dlogsnr_dt / parameterization.output_gain(level).square()


@pytest.mark.parametrize("level", [LEVEL, Linear().at(FlowMatching(), LEVEL.t)])
@pytest.mark.parametrize("parameterization", [NoisePrediction(), DataPrediction(), VPrediction()])
def test_simple_is_a_plain_error(level, parameterization):
    ones = torch.ones_like(level.t)
    torch.testing.assert_close(factor(Simple("output"), parameterization, level), ones)
    torch.testing.assert_close(factor(Simple("noise"), NoisePrediction(), level), ones)
    # the noise's simple loss is SNR times the error of x0
    torch.testing.assert_close(factor(Simple("noise"), DataPrediction(), level), level.logsnr.exp())


def test_snr_is_simple():
    torch.testing.assert_close(factor(SNR(), DataPrediction()), LEVEL.logsnr.exp())
    torch.testing.assert_close(factor(SNR(), NoisePrediction()), torch.ones_like(LEVEL.t))


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr(gamma):
    snr = LEVEL.logsnr.exp()
    truncated = snr.clamp(max=gamma)
    torch.testing.assert_close(factor(MinSNR(gamma), DataPrediction()), truncated)
    torch.testing.assert_close(factor(MinSNR(gamma), NoisePrediction()), truncated / snr)
    torch.testing.assert_close(factor(MinSNR(gamma), VPrediction()), truncated / (snr + 1))


def test_elbo_weighs_the_noise_by_the_slope():
    torch.testing.assert_close(factor(Elbo(), NoisePrediction()), -LEVEL.dlogsnr_dt)


def test_the_three_of_progressive_distillation():
    """Salimans & Ho 2022, sec. 4, as factors of the error of x0; SNR + 1 is the plain error of v."""
    snr = LEVEL.logsnr.exp()
    torch.testing.assert_close(factor(TruncatedSNR(), DataPrediction()), snr.clamp(min=1.0))
    torch.testing.assert_close(factor(SNRPlusOne(), DataPrediction()), snr + 1)
    torch.testing.assert_close(factor(SNRPlusOne(), VPrediction()), torch.ones_like(snr))


def test_p2():
    snr = LEVEL.logsnr.exp()
    torch.testing.assert_close(factor(P2(0.5, 2.0), NoisePrediction()), (2.0 + snr) ** -0.5)
    torch.testing.assert_close(factor(P2(0.0), NoisePrediction()), torch.ones_like(snr))


def test_sigmoid_depends_on_log_snr_alone():
    other = Linear().at(FlowMatching(), LEVEL.t)
    for level in (LEVEL, other):
        w = SigmoidWeighting(2.0)(level, VPrediction())
        torch.testing.assert_close(w, 1 / (1 + torch.exp(level.logsnr - 2)))


@pytest.mark.parametrize("path", [VarianceExploding(0.5), VariancePreserving()])
def test_edm_is_the_plain_error_of_f_under_its_own_times(path):
    """Karras et al. 2022, eq. 8: lambda c_out^2 = 1, log sigma normal. The cut at the schedule's ends is a constant."""
    level = path.at(Karras(0.002, 80.0), LEVEL.t)
    loss = EDMWeighting()(level, EDMPrediction(0.5)) * -level.dlogsnr_dt / LogNormal(-1.2, 1.2).density(level)
    loss = loss / EDMPrediction(0.5).output_gain(level).square()
    torch.testing.assert_close(loss, torch.full_like(loss, 0.5**2), rtol=2e-4, atol=0)


@pytest.mark.parametrize("times", [LogitNormal(0.3, 0.8), LogNormal()])
def test_simple_under_other_times_cancels_their_density(times):
    """SD3's loss: the plain error of the velocity under logit-normal times, whose density the loss divides by."""
    level = Linear().at(FlowMatching(), LEVEL.t)
    velocity = VelocityPrediction()
    factors = factor(Simple("output", under=times), velocity, level) / times.density(level)
    torch.testing.assert_close(factors, torch.ones_like(factors))


def test_learned_uncertainty_finds_the_loss_and_evens_it_out():
    """At its optimum exp(u) is the mean loss at that log-SNR, and loss exp(-u) is 1 everywhere."""
    torch.manual_seed(0)
    weighting = LearnedUncertainty(Elbo(), features=64)
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.05)
    rng = GeneratorSource(0)
    level = VariancePreserving().at(Cosine(), rng.uniform((512,)))
    expected = 0.3 * torch.exp(-0.1 * level.logsnr) * (2 + torch.sin(level.logsnr / 2))
    for _ in range(400):
        loss = expected * rng.normal((512, 16)).square().mean(1)  # of mean `expected`
        optimizer.zero_grad()
        weighting.objective(loss, level).mean().backward()
        optimizer.step()
    error = weighting.log_variance(level.logsnr).detach() - expected.log()
    assert error.abs().mean() < 0.1
    assert weighting(level, VPrediction()).equal(Elbo()(level, VPrediction()))
    assert math.isclose(weighting.objective(loss, level).mean().item(), (1 + expected.log()).mean().item(), abs_tol=0.2)
