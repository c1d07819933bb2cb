"""Closed forms against the published formulas."""

import math

import pytest
import torch

from lightning_gen.diffusion.schedules import Cosine, FlowMatching, Laplace, LinearLogSNR, Sigmoid
from lightning_gen.errors import UserError

U = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
WIDE = {"logsnr_min": -60.0, "logsnr_max": 60.0}  # with ends far out, t is the paper's own time


def test_cosine_is_nichol_and_dhariwals():
    torch.testing.assert_close(
        torch.sigmoid(Cosine(**WIDE).logsnr(U)), torch.cos(math.pi * U / 2) ** 2, rtol=1e-6, atol=0
    )


def test_sigmoid_is_chens():
    """alpha^2 with start -3, end 3."""
    curve = torch.sigmoid(-3 + 6 * torch.cat([torch.zeros(1), U, torch.ones(1)]).double())
    expected = (curve[-1] - curve[1:-1]) / (curve[-1] - curve[0])
    torch.testing.assert_close(torch.sigmoid(Sigmoid(**WIDE).logsnr(U)), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_flow_matching_has_sigma_at_the_shifted_time(shift):
    sigma = torch.sigmoid(-FlowMatching(shift, **WIDE).logsnr(U) / 2)
    torch.testing.assert_close(sigma, shift * U / (1 + (shift - 1) * U), rtol=1e-6, atol=0)


def test_flow_matching_agrees_with_diffusers_shift():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0).sigmas.double()
    t = torch.arange(1000, 0, -1, dtype=torch.float64) / 1000
    ours = torch.sigmoid(-FlowMatching(3.0, **WIDE).logsnr(t[1:]) / 2)
    torch.testing.assert_close(ours, theirs[1:1000], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("location", "scale"), [(0.0, 0.5), (1.5, 0.8)])
def test_laplace_is_hangs_and_its_log_snr_has_that_law(location, scale):
    schedule = Laplace(location, scale, logsnr_min=-25.0, logsnr_max=25.0)
    expected = location - scale * torch.sign(0.5 - U) * torch.log(1 - 2 * (U - 0.5).abs())
    torch.testing.assert_close(schedule.logsnr(U), expected, rtol=1e-6, atol=1e-9)
    law = torch.distributions.Laplace(torch.tensor(location).double(), torch.tensor(scale).double())
    torch.testing.assert_close(law.cdf(schedule.logsnr(U)), 1 - U, rtol=1e-6, atol=0)
    torch.testing.assert_close(law.log_prob(schedule.logsnr(U)).exp(), -1 / schedule.dlogsnr_dt(U), rtol=1e-6, atol=0)


def test_linear_log_snr_falls_evenly():
    expected = 6 - 14 * U
    torch.testing.assert_close(LinearLogSNR(logsnr_min=-8.0, logsnr_max=6.0).logsnr(U), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FlowMatching(shift=0.0), "shift must be positive"),
        (lambda: Laplace(scale=-1.0), "scale must be positive"),
        (lambda: Laplace(scale=0.01), "reaches log-SNR -7 to 7, not the -10.0 to 10.0"),
        (lambda: Laplace(location=12.0), "location must lie between"),
        (lambda: Sigmoid(start=1.0, end=0.0), "start < end"),
    ],
)
def test_shapes_that_cannot_be_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
