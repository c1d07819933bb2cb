"""Laws of the parameterizations: target and inverse are inverse, whatever the network predicts."""

import math

import pytest
import torch

from lightning_gen.diffusion import (
    Cosine,
    DataPrediction,
    FlowMatching,
    Linear,
    LinearBeta,
    NoisePrediction,
    VariancePreserving,
    VelocityPrediction,
    VPrediction,
)

ALL = [NoisePrediction(), DataPrediction(), VPrediction(), VelocityPrediction()]
AXES = [
    (Cosine(), VariancePreserving()),
    (LinearBeta(), VariancePreserving()),
    (FlowMatching(), Linear()),
    (Cosine(), Linear()),
]


def example(schedule, path, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 64, 5, generator=generator, dtype=dtype)
    level = path.at(schedule, torch.linspace(0, 1, 64, dtype=dtype))
    return x0, eps, level, level.diffuse(x0, eps)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("parameterization", ALL)
def test_target_and_prediction_are_inverse(axes, parameterization):
    x0, eps, level, x_t = example(*axes)
    prediction = parameterization.to_prediction(parameterization.target(x0, eps, level), x_t, level)
    torch.testing.assert_close(prediction.x0, x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(prediction.eps, eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("parameterization", ALL)
def test_any_output_gives_a_consistent_pair(axes, parameterization):
    """x0_hat and eps_hat always lie on x_t = alpha x0 + sigma eps, also for a wrong output."""
    _, _, level, x_t = example(*axes)
    out = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(1), dtype=x_t.dtype)
    prediction = parameterization.to_prediction(out, x_t, level)
    torch.testing.assert_close(level.diffuse(prediction.x0, prediction.eps), x_t, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("parameterization", ALL)
def test_output_gain_is_the_derivative(axes, parameterization):
    """An error delta of the noise is an error gain * delta of the output, x_t held fixed."""
    x0, eps, level, x_t = example(*axes)
    wrong = eps + 0.1
    consistent = (x_t - level.sigma[:, None] * wrong) / level.alpha[:, None]
    change = parameterization.target(consistent, wrong, level) - parameterization.target(x0, eps, level)
    torch.testing.assert_close(
        change, 0.1 * parameterization.output_gain(level)[:, None].expand_as(change), rtol=1e-6, atol=1e-9
    )


def test_velocity_is_the_papers():
    """On the linear path with the flow-matching schedule: eps - x0, times the stretch of the truncated time."""
    schedule, path = FlowMatching(), Linear()
    x0, eps, level, _ = example(schedule, path)
    stretch = 1 - 2 * torch.sigmoid(torch.tensor(-5.0, dtype=torch.float64))
    torch.testing.assert_close(VelocityPrediction().target(x0, eps, level), stretch * (eps - x0))


def test_v_is_the_velocity_of_the_cosine_schedule():
    """alpha = cos, sigma = sin of one angle: dx/d(angle) = v."""
    x0, eps, level, _ = example(Cosine(), VariancePreserving())
    angle = torch.atan2(level.sigma, level.alpha)
    per_time = (angle[-1] - angle[0]).item()
    v = VPrediction().target(x0, eps, level)
    torch.testing.assert_close(VelocityPrediction().target(x0, eps, level), per_time * v, rtol=1e-6, atol=1e-9)
    assert per_time == pytest.approx(math.pi / 2, rel=0.02)


def test_singular_where_the_noise_is_all_there_is():
    level = VariancePreserving().at(Cosine(logsnr_min=-30.0), torch.ones(1, dtype=torch.float64))
    assert NoisePrediction().singular_at(level)
    assert not VPrediction().singular_at(level)
    assert not DataPrediction().singular_at(level)
