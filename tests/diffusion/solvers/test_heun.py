"""Heun's method in both variables, and with churn."""

import pytest
import torch

from lightning_gen.diffusion.grids import KarrasRho
from lightning_gen.diffusion.paths import Linear, SubVariancePreserving, VarianceExploding, VariancePreserving
from lightning_gen.diffusion.schedules import Cosine
from lightning_gen.diffusion.solvers import DDIM, Churn, Heun, KarrasHeun

BOTH = pytest.mark.parametrize("make_solver", [Heun, KarrasHeun])


@BOTH
def test_order_of_convergence(gaussian, axes, make_solver):
    assert gaussian.order(make_solver(), axes) == pytest.approx(2, abs=0.1)


def test_karras_heun_does_not_depend_on_the_path(gaussian, tools):
    """In sigma / alpha and x / alpha all paths are one; Heun in t knows the path."""

    def ends(solver):
        found = []
        for path in (VariancePreserving(), VarianceExploding(1.0), SubVariancePreserving(), Linear()):
            levels = tools.levels(Cosine(), path, 8, KarrasRho())
            x = levels[0].alpha * torch.tensor([[30.0, -50.0]], dtype=torch.float64)
            found.append(tools.integrate(solver, gaussian.denoiser(path), levels, x) / levels[-1].alpha)
        return torch.cat(found)

    assert ends(KarrasHeun()).std(0).max() < 1e-10
    assert ends(Heun()).std(0).max() > 1e-3


def test_karras_heun_on_its_grid_beats_ddim_at_equal_cost(gaussian, tools):
    path, schedule = VarianceExploding(0.5), Cosine(logsnr_min=-8.8, logsnr_max=12.4)  # sigma from 80 to 0.002
    heun = gaussian.error(KarrasHeun(), tools.levels(schedule, path, 30, KarrasRho()))
    assert heun < 0.5 * gaussian.error(DDIM(), tools.levels(schedule, path, 60, KarrasRho()))


@BOTH
def test_churn_of_nothing_changes_nothing(gaussian, axes, tools, make_solver):
    make, path = axes
    levels = tools.levels(make(), path, 6)
    x = gaussian.draw(levels[0], 4)
    ends = [tools.integrate(s, gaussian.denoiser(path), levels, x) for s in (make_solver(), make_solver(Churn(0.0)))]
    assert torch.equal(*ends)


@BOTH
def test_churn_keeps_the_marginals(gaussian, axes, tools, make_solver):
    """Fresh noise is taken off again: the mean and the covariance reached are the data's, to the order of the step, where
    the noise in all (S_churn = 2) does not rise with the steps.
    """
    make, path = axes
    few, many = (
        gaussian.weak_error(make_solver(Churn(2 / n)), tools.levels(make(logsnr_min=-6.0, logsnr_max=6.0), path, n))
        for n in (20, 80)
    )
    assert max(many) < 0.2 * max(few)
