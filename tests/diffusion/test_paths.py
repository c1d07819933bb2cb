"""Laws of the paths: the ratio is the log-SNR, derivatives are derivatives, and nothing cancels in float32."""

import pytest
import torch

from lightning_gen.diffusion import (
    Cosine,
    FlowMatching,
    Geometric,
    Linear,
    LinearBeta,
    SubVariancePreserving,
    SubVPLinearBeta,
    VarianceExploding,
    VariancePreserving,
)

PATHS = [VariancePreserving(), Linear(), SubVariancePreserving(), VarianceExploding()]
T = torch.linspace(0, 1, 301, dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("schedule", [Cosine(), LinearBeta(), FlowMatching()])
def test_ratio_and_derivatives(path, schedule):
    t = T.clone().requires_grad_()
    level = path.at(schedule, t)
    nothing = 0 * t  # a scale may be constant
    torch.testing.assert_close(2 * (level.alpha.log() - level.sigma.log()), level.logsnr)
    for value, slope in (
        (level.logsnr, level.dlogsnr_dt),
        (level.alpha, level.dalpha_dt),
        (level.sigma, level.dsigma_dt),
    ):
        (derivative,) = torch.autograd.grad((value + nothing).sum(), t, retain_graph=True)
        torch.testing.assert_close(slope, derivative, rtol=1e-8, atol=1e-12)


def test_normalisation():
    logsnr = torch.linspace(-20, 20, 101, dtype=torch.float64)
    alpha, sigma, _, _ = VariancePreserving().scales(logsnr)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    alpha, sigma, _, _ = Linear().scales(logsnr)
    torch.testing.assert_close(alpha + sigma, torch.ones_like(alpha))
    alpha, sigma, _, _ = SubVariancePreserving().scales(logsnr)
    torch.testing.assert_close(alpha**2 + sigma, torch.ones_like(alpha))
    alpha, sigma, _, _ = VarianceExploding().scales(logsnr)
    torch.testing.assert_close(alpha, torch.ones_like(alpha))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("value", [-13.0, 13.0, 18.0])
def test_small_scales_survive_float32(path, value):
    """1 - alpha^2 in float32 is off by 3 % at log-SNR 13; both scales must be good to 1e-6 anywhere."""
    exact = path.scales(torch.tensor(value, dtype=torch.float64))
    for single, double in zip(path.scales(torch.tensor(value)), exact):
        assert single.item() == pytest.approx(double.item(), rel=2e-6)


def test_diffuse_has_the_marginal_it_says():
    level = VariancePreserving().at(Cosine(), torch.tensor([0.3, 0.7]))
    x0, eps = torch.full((2, 3, 4), 2.0), torch.full((2, 3, 4), -1.0)
    x = level.diffuse(x0, eps)
    torch.testing.assert_close(x[1, 0, 0], 2 * level.alpha[1] - level.sigma[1])


def test_the_papers_sigmas():
    """VE's geometric sequence, and sub-VP's 1 - exp(-int beta) (Song et al. 2021, eqs. 30 and 29)."""
    t = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    ve = VarianceExploding().at(Geometric(0.01, 50.0), t)
    torch.testing.assert_close(ve.sigma, 0.01 * (50.0 / 0.01) ** t)
    torch.testing.assert_close(VarianceExploding().prior_std(ve)[2], torch.tensor(50.0, dtype=torch.float64))
    schedule = SubVPLinearBeta(0.1, 20.0)
    sub = SubVariancePreserving().at(schedule, t)
    u = schedule._start + schedule._span * t
    integral = 0.1 * u + 0.5 * 19.9 * u**2
    torch.testing.assert_close(sub.alpha, torch.exp(-0.5 * integral))
    torch.testing.assert_close(sub.sigma, -torch.expm1(-integral))


def test_a_network_on_the_exploding_path_sees_unit_variance():
    level = VarianceExploding(0.5).at(Geometric(0.01, 50.0), T)
    variance = (0.5**2 + level.sigma**2) * VarianceExploding(0.5).input_scale(level) ** 2
    torch.testing.assert_close(variance, torch.ones_like(T))
    assert VariancePreserving().input_scale(level) is None
