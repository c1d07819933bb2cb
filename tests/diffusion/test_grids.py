"""Grids fall from 1 to 0 and are even in the variable that they say."""

import pytest
import torch

from lightning_gen.diffusion.grids import KarrasRho, UniformLogSNR, UniformTime
from lightning_gen.diffusion.schedules import (
    Cosine,
    DiscreteLinearBeta,
    FlowMatching,
    LinearBeta,
    LinearLogSNR,
    ZeroTerminal,
)
from lightning_gen.errors import UserError

EVERY = [UniformTime(), UniformLogSNR(), KarrasRho(), KarrasRho(1.0)]
SCHEDULES = [Cosine(), LinearBeta(), FlowMatching(logsnr_min=-6.0, logsnr_max=12.0)]


def even(values):
    steps = values.diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-6, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 35])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("grid", EVERY, ids=lambda g: type(g).__name__)
def test_from_one_to_zero_strictly(grid, schedule, steps):
    times = grid.times(steps, schedule)
    assert times.shape == (steps + 1,)
    assert times.dtype == torch.float64
    assert times[0] == 1.0
    assert times[-1] == 0.0
    assert (times.diff() < 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_even_in_their_own_variable(schedule):
    def logsnr(grid):
        return schedule.logsnr(grid.times(12, schedule))

    even(UniformTime().times(12, schedule))
    even(logsnr(UniformLogSNR()))
    even(torch.exp(-0.5 * logsnr(KarrasRho(1.0))))  # sigma / alpha itself
    even(torch.exp(-0.5 * logsnr(KarrasRho(7.0))) ** (1 / 7))


def test_karras_levels_are_the_papers():
    """EDM's eq. 5: (s_max^(1/rho) + i / (N - 1) (s_min^(1/rho) - s_max^(1/rho)))^rho, sigma from 80 to 0.002, rho 7."""
    schedule = LinearLogSNR(logsnr_min=-8.764053269347762, logsnr_max=12.429216196844383)
    sigma = torch.exp(-0.5 * schedule.logsnr(KarrasRho().times(17, schedule)))
    i = torch.arange(18, dtype=torch.float64)
    paper = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(sigma, paper, rtol=1e-9, atol=0)


def test_rho_moves_from_even_sigma_to_even_logsnr():
    schedule = Cosine()
    target = UniformLogSNR().times(20, schedule)
    distance = [(KarrasRho(rho).times(20, schedule) - target).abs().max().item() for rho in (1.0, 7.0, 1000.0)]
    assert distance[0] > distance[1] > distance[2]
    assert distance[2] < 0.01


@pytest.mark.parametrize("rho", [0.0, -7.0])
def test_bad_rho_is_refused(rho):
    with pytest.raises(UserError, match="rho"):
        KarrasRho(rho)


@pytest.mark.parametrize("grid", [UniformTime(), UniformLogSNR(), KarrasRho()], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("schedule", [DiscreteLinearBeta(), ZeroTerminal(DiscreteLinearBeta()), Cosine()])
def test_times_are_made_where_the_schedule_is(grid, schedule):
    """A table or weights on another device than the times' would be an error; `meta` stands for that device."""
    assert grid.times(5, schedule.to("meta"), torch.device("meta")).device.type == "meta"
