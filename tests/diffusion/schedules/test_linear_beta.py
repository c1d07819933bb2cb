"""The VP and sub-VP forms of the linear beta, against the formulas of Song et al. 2021."""

import math

import pytest
import torch

from lightning_gen.diffusion.schedules import LinearBeta, SubVPLinearBeta
from lightning_gen.errors import UserError

U = [0.05, 0.25, 0.5, 0.75, 0.95]


def integral(u):
    return 0.1 * u + 0.5 * 19.9 * u**2


@pytest.mark.parametrize(
    ("kind", "alpha", "sigma"),
    [
        (LinearBeta, lambda i: math.exp(-i / 2), lambda i: math.sqrt(1 - math.exp(-i))),
        (SubVPLinearBeta, lambda i: math.exp(-i / 2), lambda i: 1 - math.exp(-i)),
    ],
)
def test_log_snr_is_the_papers(kind, alpha, sigma):
    """At the paper's time u, found through the time of a schedule's own ends."""
    expected = torch.tensor([2 * math.log(alpha(integral(u)) / sigma(integral(u))) for u in U], dtype=torch.float64)
    schedule = kind(logsnr_min=expected[-1].item(), logsnr_max=expected[0].item())
    t = (torch.tensor(U, dtype=torch.float64) - U[0]) / (U[-1] - U[0])
    torch.testing.assert_close(schedule.logsnr(t), expected, rtol=1e-9, atol=1e-9)


def test_linear_beta_is_the_limit_of_ddpm():
    """Ho et al.'s 1000 steps of beta from 1e-4 to 0.02 give the same alpha^2 to the order of the step."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha2 = torch.cumprod(1 - betas, 0)
    end = torch.logit(alpha2[-1]).item()
    schedule = LinearBeta(logsnr_min=max(end, -10.04), logsnr_max=torch.logit(alpha2[0]).item())
    ours = torch.sigmoid(schedule.logsnr(torch.linspace(0, 1, 1000, dtype=torch.float64)))
    assert (ours.log() - alpha2.log()).abs().max() < 0.1  # of log alpha^2 = -10.1 at the end


@pytest.mark.parametrize("kind", [LinearBeta, SubVPLinearBeta])
def test_betas_in_disorder_are_refused(kind):
    with pytest.raises(UserError, match=f"{kind.__name__} needs 0 < beta_min < beta_max"):
        kind(beta_min=3.0, beta_max=2.0)
    with pytest.raises(UserError, match=f"{kind.__name__} reaches log-SNR"):
        kind(beta_max=5.0)
