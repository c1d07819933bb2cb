"""DPM-Solver++: its orders, with and without noise."""

import math

import pytest
import torch

from lightning_gen.diffusion.denoisers import Conditioned
from lightning_gen.diffusion.grids import UniformLogSNR
from lightning_gen.diffusion.paths import VariancePreserving
from lightning_gen.diffusion.schedules import Cosine
from lightning_gen.diffusion.solvers import DDIM, DPMSolverPP
from lightning_gen.diffusion.solvers.exponential import History
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource


@pytest.mark.parametrize("order", [1, 2])
def test_order_of_convergence(gaussian, axes, order):
    assert gaussian.order(DPMSolverPP(order), axes) == pytest.approx(order, abs=0.1)


def test_third_order_from_exact_starting_values(gaussian, axes, tools):
    """The lower-order start costs a second-order error, so the history of the first two steps is given, off the exact flow."""
    make, path = axes
    denoiser = Conditioned(gaussian.denoiser(path), None)

    def error(steps):
        levels = tools.levels(make(logsnr_min=-6.0, logsnr_max=6.0), path, steps, UniformLogSNR())
        start = gaussian.draw(levels[0], 16)
        exact = [gaussian.flow(start, levels[0], level) for level in levels]
        x, state = exact[2], History()
        for i in (0, 1):
            state = state.extended(denoiser.at(exact[i], levels[i]).x0, levels[i], keep=3)
        for at, to in zip(levels[2:], levels[3:]):
            x, state = DPMSolverPP(3).step(denoiser, x, at, to, state, GeneratorSource(0))
        return (x - exact[-1]).abs().max().item()

    assert math.log2(error(160) / error(320)) == pytest.approx(3, abs=0.2)


def test_ten_steps_are_the_better_the_higher_the_order(gaussian, axes, tools):
    make, path = axes
    levels = tools.levels(make(logsnr_min=-6.0, logsnr_max=6.0), path, 10, UniformLogSNR())
    ddim, second, third = (gaussian.error(s, levels) for s in (DDIM(), DPMSolverPP(2), DPMSolverPP(3)))
    assert third < 0.5 * second
    assert second < 0.2 * ddim


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_order_one_is_ddim(gaussian, axes, tools, eta):
    make, path = axes
    levels = tools.levels(make(), path, 10)
    x = gaussian.draw(levels[0], 4)
    ends = [
        tools.integrate(s, gaussian.denoiser(path), levels, x, GeneratorSource(3))
        for s in (DDIM(eta), DPMSolverPP(1, eta))
    ]
    torch.testing.assert_close(*ends)


@pytest.mark.parametrize(("order", "weak"), [(1, 1), (2, 2), (3, 2)])
def test_weak_order_of_the_sde(gaussian, tools, order, weak):
    """Of the covariance; the mean is exact at any number of steps, since E[x0_hat] does not change along the SDE."""
    schedule, path = Cosine(logsnr_min=-6.0, logsnr_max=6.0), VariancePreserving()
    errors = [
        gaussian.weak_error(DPMSolverPP(order, eta=1.0), tools.levels(schedule, path, n, UniformLogSNR()))
        for n in (40, 80)
    ]
    assert math.log2(errors[0][1] / errors[1][1]) == pytest.approx(weak, abs=0.2)
    assert max(mean for mean, _ in errors) < 1e-12


def test_lower_order_final_is_ddims_last_step(gaussian, tools):
    path = VariancePreserving()
    levels = tools.levels(Cosine(), path, 8)
    denoiser, x = gaussian.denoiser(path), gaussian.draw(levels[0], 4)
    before = tools.integrate(DPMSolverPP(3), denoiser, levels[:-1], x)
    end = tools.integrate(DPMSolverPP(3, lower_order_final=True), denoiser, levels, x)
    torch.testing.assert_close(end, tools.integrate(DDIM(), denoiser, levels[-2:], before))
    assert not torch.allclose(end, tools.integrate(DPMSolverPP(3), denoiser, levels, x))


@pytest.mark.parametrize("bad", [{"order": 4}, {"eta": -1.0}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(UserError, match="DPMSolverPP"):
        DPMSolverPP(**bad)
