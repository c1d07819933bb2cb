"""Ranges of sigma against the papers' formulas."""

import pytest
import torch

from lightning_gen.diffusion.schedules import Geometric, Karras
from lightning_gen.errors import UserError

T = torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0], dtype=torch.float64)


def sigma(schedule, t):
    return torch.exp(-0.5 * schedule.logsnr(t))


@pytest.mark.parametrize("rho", [7.0, 1.0])
def test_karras_is_edms_eq_5(rho):
    low, high = 0.002 ** (1 / rho), 80 ** (1 / rho)
    expected = (high + (1 - T) * (low - high)) ** rho  # the paper's i / (N - 1) runs from the noise
    torch.testing.assert_close(sigma(Karras(rho=rho), T), expected, rtol=1e-10, atol=0)


def test_karras_of_large_rho_is_geometric():
    ends = {"sigma_min": 0.01, "sigma_max": 50.0}
    torch.testing.assert_close(Karras(**ends, rho=1e6).logsnr(T), Geometric(**ends).logsnr(T), rtol=1e-4, atol=1e-3)


def test_karras_agrees_with_diffusers():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, num_train_timesteps=50)
    scheduler.set_timesteps(50)
    ours = sigma(Karras(), torch.linspace(1, 0, 50, dtype=torch.float64))
    torch.testing.assert_close(ours, scheduler.sigmas[:-1].double(), rtol=1e-5, atol=0)


def test_geometric_is_the_ve_sdes_eq_30():
    torch.testing.assert_close(sigma(Geometric(), T), 0.01 * 5000**T, rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", [Karras, Geometric])
def test_sigmas_in_disorder_are_refused(kind):
    with pytest.raises(UserError, match=f"{kind.__name__} needs 0 < sigma_min < sigma_max"):
        kind(sigma_min=0.0)
    with pytest.raises(UserError, match="rho must be positive"):
        Karras(rho=0.0)
