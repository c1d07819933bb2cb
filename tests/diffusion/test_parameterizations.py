"""Laws of the parameterizations: target and inverse are inverse, whatever the network predicts."""

import math

import pytest
import torch

from lightning_gen.diffusion import (
    Cosine,
    DataPrediction,
    EDMPrediction,
    FlowMatching,
    Karras,
    Linear,
    LinearBeta,
    MeanPrediction,
    NoisePrediction,
    ScorePrediction,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
    VelocityPrediction,
    VPrediction,
)

ALL = [
    NoisePrediction(),
    DataPrediction(),
    VPrediction(),
    VelocityPrediction(),
    ScorePrediction(),
    MeanPrediction(50),
    EDMPrediction(0.5),
]
AXES = [
    (Cosine(), VariancePreserving()),
    (LinearBeta(), VariancePreserving()),
    (FlowMatching(), Linear()),
    (Cosine(), Linear()),
    (Karras(0.01, 50.0), VarianceExploding()),
    (LinearBeta(), SubVariancePreserving()),
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
    torch.testing.assert_close(prediction.x0, x0, rtol=1e-8, atol=1e-8)
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


def test_the_score_is_that_of_the_noising():
    x0, eps, level, x_t = example(Cosine(), VariancePreserving())
    x_t.requires_grad_()
    log_q = torch.distributions.Normal(level.alpha[:, None] * x0, level.sigma[:, None]).log_prob(x_t).sum()
    (score,) = torch.autograd.grad(log_q, x_t)
    torch.testing.assert_close(ScorePrediction().target(x0, eps, level), score)


@pytest.mark.parametrize("axes", AXES)
def test_the_mean_is_that_of_bayes_rule(axes):
    """q(x_s | x_t, x0) from the joint Gaussian of (x_s, x_t) given x0, x_t = (a_t/a_s) x_s + noise."""
    x0, eps, level, x_t = example(*axes)
    steps = 50
    before = axes[1].at(axes[0], level.t - 1 / steps)
    ratio = level.alpha / before.alpha
    gain = ratio * before.sigma**2 / level.sigma**2  # Cov(x_s, x_t) / Var(x_t)
    expected = before.alpha[:, None] * x0 + gain[:, None] * (x_t - level.alpha[:, None] * x0)
    whole = level.t >= 1 / steps  # before it there is no pair in the schedule
    torch.testing.assert_close(MeanPrediction(steps).target(x0, eps, level)[whole], expected[whole])


def test_pairs_go_on_below_the_first_step():
    """There the step in log-SNR is the first one's, so that no pair is degenerate."""
    level = VariancePreserving().at(Cosine(), torch.tensor([0.0, 0.004, 0.01], dtype=torch.float64))
    width = level.earlier(0.01).logsnr - level.logsnr
    torch.testing.assert_close(width, width[-1].expand(3))
    torch.testing.assert_close(level.earlier(0.01).logsnr[2].item(), 10.0)


def test_edm_preconditioning():
    """Karras et al. 2022, table 1: input and target have unit variance at every level, for data of that variance."""
    schedule, path, std = Karras(0.002, 80.0), VarianceExploding(), 0.5
    level = path.at(schedule, torch.linspace(0, 1, 7, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 7, 200_000, generator=generator, dtype=torch.float64)
    x0 *= std
    edm = EDMPrediction(std)
    ones = torch.ones(7, dtype=torch.float64)
    x_t = level.diffuse(x0, eps)
    torch.testing.assert_close((edm.input_scale(level)[:, None] * x_t).std(1), ones, atol=0.01, rtol=0)
    torch.testing.assert_close(edm.target(x0, eps, level).std(1), ones, atol=0.01, rtol=0)
    c_skip = std**2 / (level.sigma**2 + std**2)
    c_out = level.sigma * std / torch.sqrt(level.sigma**2 + std**2)
    out = torch.full_like(x_t, 0.7)
    torch.testing.assert_close(edm.to_prediction(out, x_t, level).x0, c_skip[:, None] * x_t + c_out[:, None] * out)


def test_edm_of_unit_data_is_v_turned_round():
    x0, eps, level, _ = example(Cosine(), VariancePreserving())
    torch.testing.assert_close(EDMPrediction(1.0).target(x0, eps, level), -VPrediction().target(x0, eps, level))
