"""Euler's method in t, with and without noise."""

import pytest
import torch

from lightning_gen.diffusion.paths import VariancePreserving
from lightning_gen.diffusion.schedules import Cosine, LinearBeta
from lightning_gen.diffusion.solvers import Euler, EulerMaruyama
from lightning_gen.errors import UserError


def test_order_of_convergence(gaussian, axes):
    assert gaussian.order(Euler(), axes) == pytest.approx(1, abs=0.1)


def test_without_noise_euler_maruyama_is_euler(gaussian, axes, tools):
    make, path = axes
    levels = tools.levels(make(), path, 10)
    x = gaussian.draw(levels[0], 4)
    ends = [tools.integrate(s, gaussian.denoiser(path), levels, x) for s in (Euler(), EulerMaruyama(0.0))]
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


def test_weak_order_on_every_path(gaussian, axes):
    """At least 1: where the time is that of the path's own symmetry (VE in log sigma) the first order vanishes."""
    assert gaussian.weak_order(EulerMaruyama(), axes) > 0.9


@pytest.mark.parametrize("make", [Cosine, LinearBeta])
@pytest.mark.parametrize("eta", [0.5, 1.0, 1.5])
def test_every_eta_has_the_same_limit(gaussian, tools, make, eta):
    """Mean and covariance, of weak order 1: half the step, half the error, twice over."""
    path, schedule = VariancePreserving(), make(logsnr_min=-6.0, logsnr_max=6.0)
    errors = [gaussian.weak_error(EulerMaruyama(eta), tools.levels(schedule, path, n)) for n in (80, 160)]
    for few, many in zip(*errors):
        assert few / many == pytest.approx(2, rel=0.15)


def test_negative_eta_is_refused():
    with pytest.raises(UserError, match="eta"):
        EulerMaruyama(-1.0)
