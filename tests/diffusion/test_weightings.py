"""Laws of the weightings: each is the loss its paper names, whatever the network predicts."""

import pytest
import torch

from lightning_gen.diffusion import (
    SNR,
    Cosine,
    DataPrediction,
    Elbo,
    FlowMatching,
    Linear,
    MinSNR,
    NoisePrediction,
    Simple,
    VariancePreserving,
    VPrediction,
)

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
