"""Laws of how a discrete diffusion forgets."""

import math

import pytest
import torch

from lightning_gen.discrete_diffusion import Cosine, Linear, MutualInformation
from lightning_gen.errors import UserError

SCHEDULES = [Linear(), Linear(0.0, 5.0), Cosine(), Cosine(0.0), Cosine(0.053), Cosine(2.7), MutualInformation()]
IDS = ["Linear", "Linear from 0", "Cosine", "Cosine at 0", "Cosine that rounded up", "long Cosine", "MutualInformation"]


def betas(schedule, steps):
    alpha = schedule.alpha(torch.arange(steps + 1, dtype=torch.float64) / steps)
    return 1 - alpha[1:] / alpha[:-1]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=IDS)
def test_all_is_there_at_first_and_ever_less_later(schedule):
    t = torch.cat([torch.zeros(1), torch.logspace(-18, -4, 40), torch.linspace(1e-3, 1, 500)]).double()
    alpha = schedule.alpha(t)
    assert alpha[0] == 1 and schedule.alpha(t[0]) == 1  # to the last bit: 1 - alpha has a logarithm
    assert alpha.dtype == torch.float64 and (alpha >= 0).all()
    assert (alpha.diff() <= 0).all() and (alpha[t > 1e-3].diff() < 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=IDS)
def test_the_derivative_is_the_derivative(schedule):
    t = torch.linspace(0, 1, 33, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(schedule.alpha(t).sum(), t)
    torch.testing.assert_close(schedule.dalpha_dt(t.detach()), slope, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("schedule", [Cosine(), Cosine(0.3), MutualInformation()])
def test_nothing_is_left_at_the_end(schedule):
    assert schedule.alpha(torch.ones(3, dtype=torch.float64)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("steps", [1, 4, 1000])
def test_mutual_information_forgets_one_of_what_is_left(steps):
    """beta_i = 1 / (T - i + 1)."""
    expected = 1 / torch.arange(steps, 0, -1, dtype=torch.float64)
    torch.testing.assert_close(betas(MutualInformation(), steps), expected, rtol=1e-9, atol=0)


def test_linear_has_the_betas_of_ddpm():
    """1e-4 to 0.02 in 1000 steps, evenly, but for the discretisation."""
    torch.testing.assert_close(
        betas(Linear(), 1000), torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), rtol=0.1, atol=1e-5
    )


def test_cosine_is_a_quarter_of_a_cosine():
    t = torch.linspace(0, 1, 50, dtype=torch.float64)
    quarter = torch.cos((t + 0.008) / 1.008 * math.pi / 2)
    torch.testing.assert_close(Cosine().alpha(t), quarter / quarter[0])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=IDS)
def test_networks_are_told_the_log_odds_within_limits(schedule):
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    told = schedule.logsnr(t)
    assert told.dtype == torch.float32 and told[0] == 15 and told.min() >= -15
    torch.testing.assert_close(told[1:10].double().sigmoid(), schedule.alpha(t[1:10]), rtol=1e-5, atol=3.1e-7)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Linear(2.0, 1.0), "beta_min"),
        (lambda: Linear(0.0, 0.0), "beta_max"),
        (lambda: Linear(0.1, math.inf), "beta_max"),
        (lambda: Cosine(-0.1), "offset"),
        (lambda: Cosine(math.nan), "offset"),
    ],
)
def test_what_is_no_schedule_is_refused(make, named):
    with pytest.raises(UserError, match=named):
        make()
