"""DDIM: its order, and its identities with Euler's method and the ancestral sampler."""

import pytest
import torch

from lightning_gen.diffusion.denoisers import Conditioned
from lightning_gen.diffusion.paths import VarianceExploding, VariancePreserving
from lightning_gen.diffusion.schedules import Cosine
from lightning_gen.diffusion.solvers import DDIM, Ancestral, Euler
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource


def test_order_of_convergence(gaussian, axes):
    assert gaussian.order(DDIM(), axes) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_weak_order_with_noise(gaussian, axes, eta):
    assert gaussian.weak_order(DDIM(eta), axes) == pytest.approx(1, abs=0.2)


def test_with_eta_one_it_is_ancestral(gaussian, tools):
    """The same update, written differently: equal noise gives equal states, but for the last step's noise."""
    path = VariancePreserving()
    levels = tools.levels(Cosine(), path, 10)[:-1]
    x = gaussian.draw(levels[0], 8)
    ends = [
        tools.integrate(s, gaussian.denoiser(path), levels, x, GeneratorSource(2)) for s in (Ancestral(), DDIM(1.0))
    ]
    torch.testing.assert_close(*ends)


def test_it_is_eulers_method_in_sigma(gaussian, tools):
    """On a VE path whose t is sigma, dx/dt = eps: Euler in t and DDIM are one."""
    path = VarianceExploding(1.0)
    at, to = (path.at(Cosine(), torch.tensor(t, dtype=torch.float64)) for t in (0.6, 0.4))
    x = gaussian.draw(at, 8)
    denoiser = Conditioned(gaussian.denoiser(path), None)
    eps = denoiser.at(x, at).eps
    torch.testing.assert_close(DDIM().step(denoiser, x, at, to, None, None)[0], x + (to.sigma - at.sigma) * eps)
    assert not torch.allclose(Euler().step(denoiser, x, at, to, None, None)[0], x + (to.sigma - at.sigma) * eps)


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_bad_eta_is_refused(eta):
    with pytest.raises(UserError, match="eta"):
        DDIM(eta)
