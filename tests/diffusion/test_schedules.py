"""Laws of the schedules: ends, slope, inverse, and the floating-point traps at the ends."""

import math

import pytest
import torch

from lightning_gen.diffusion import Cosine, FlowMatching, LinearBeta, LinearLogSNR, Sigmoid, VariancePreserving
from lightning_gen.errors import UserError

SCHEDULES = [LinearBeta, Cosine, Sigmoid, FlowMatching, LinearLogSNR]
T = torch.linspace(0, 1, 1001, dtype=torch.float64)


@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.parametrize("ends", [(-10.0, 10.0), (-4.0, 13.0), (-9.5, 2.0)])
def test_runs_between_its_ends_and_falls(make, ends):
    logsnr = make(logsnr_min=ends[0], logsnr_max=ends[1]).logsnr(T)
    assert logsnr[0].item() == pytest.approx(ends[1], abs=1e-9)
    assert logsnr[-1].item() == pytest.approx(ends[0], abs=1e-9)
    assert (logsnr.diff() < 0).all()


@pytest.mark.parametrize("make", SCHEDULES)
def test_slope_is_the_derivative(make):
    t = T.clone().requires_grad_()
    schedule = make()
    (slope,) = torch.autograd.grad(schedule.logsnr(t).sum(), t)
    torch.testing.assert_close(schedule.dlogsnr_dt(T), slope, rtol=1e-9, atol=0)


@pytest.mark.parametrize("make", SCHEDULES)
def test_time_inverts_logsnr(make):
    schedule = make()
    torch.testing.assert_close(schedule.time(schedule.logsnr(T)), T, rtol=0, atol=1e-10)


@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.parametrize("end", [10.0, 20.0])
def test_a_float32_record_is_exact_up_to_the_ends(make, end):
    """In float32 arithmetic the sigmoid schedule at 20 is infinite, and the cosine one off by 1e-3."""
    schedule = make(logsnr_min=-10.0, logsnr_max=end)
    single, double = VariancePreserving().at(schedule, T.float()), VariancePreserving().at(schedule, T.float().double())
    for name in ("logsnr", "alpha", "sigma", "dlogsnr_dt", "dalpha_dt", "dsigma_dt"):
        torch.testing.assert_close(getattr(single, name).double(), getattr(double, name), rtol=1e-6, atol=1e-30)


def test_shapes_are_the_papers():
    t = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    # with ends far out, t is the paper's own time
    wide = {"logsnr_min": -60.0, "logsnr_max": 60.0}
    cosine = Cosine(**wide).logsnr(t)
    torch.testing.assert_close(torch.sigmoid(cosine), torch.cos(math.pi * t / 2) ** 2, rtol=1e-6, atol=0)
    flow = FlowMatching(**wide).logsnr(t)
    torch.testing.assert_close(torch.sigmoid(-flow / 2), t, rtol=1e-6, atol=0)
    sigmoid = torch.sigmoid(Sigmoid(**wide).logsnr(t))  # alpha^2 of Chen 2023, start -3, end 3
    at = [torch.sigmoid(torch.tensor(-3.0 + 6 * u, dtype=torch.float64)) for u in (0.0, 0.25, 0.5, 0.75, 1.0)]
    torch.testing.assert_close(
        sigmoid, torch.stack([(at[4] - a) / (at[4] - at[0]) for a in at[1:4]]), rtol=1e-6, atol=0
    )


def test_linear_beta_is_the_limit_of_ddpm():
    """Ho et al.'s 1000 steps of beta from 1e-4 to 0.02 give the same alpha^2 to the order of the step."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha2 = torch.cumprod(1 - betas, 0)
    schedule = LinearBeta(beta_min=0.1, beta_max=20.0)
    u = torch.arange(1, 1001, dtype=torch.float64) / 1000
    ours = torch.exp(-schedule._integral(u))
    assert (ours.log() - alpha2.log()).abs().max() < 0.1  # of log alpha^2 = -10.1 at the end


def test_ends_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="reaches log-SNR"):
        LinearBeta(logsnr_min=-12.0)
    with pytest.raises(UserError, match="finite"):
        Cosine(logsnr_max=math.inf)
    with pytest.raises(UserError, match="logsnr_min < logsnr_max"):
        Cosine(logsnr_min=3.0, logsnr_max=2.0)
