"""Churn moves x along the noising itself."""

import math

import pytest
import torch

from lightning_gen.diffusion.solvers import Churn
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource


class Unit:
    """Noise of one everywhere."""

    def normal(self, shape, dtype):
        return torch.ones(shape, dtype=dtype)


def level(axes, t):
    make, path = axes
    return path.at(make(), torch.tensor(t, dtype=torch.float64))


def test_raised_x_has_the_raised_levels_law(axes):
    """alpha_hat / alpha x carries the data's scale, and the two noises' variances add up to sigma_hat^2."""
    at = level(axes, 0.4)
    signal, to = Churn(0.3)(at.alpha * torch.ones(1, dtype=torch.float64), at, Unit())
    zero, _ = Churn(0.3)(torch.zeros(1, dtype=torch.float64), at, Unit())
    assert (to.sigma / to.alpha).item() == pytest.approx(1.3 * (at.sigma / at.alpha).item(), rel=1e-9)
    assert (signal - zero).item() == pytest.approx(to.alpha.item(), rel=1e-9)
    assert (zero.square() + (to.alpha / at.alpha * at.sigma) ** 2).item() == pytest.approx(
        to.sigma.item() ** 2, rel=1e-9
    )
    assert to.t > at.t


def test_noise_is_scaled_by_s_noise(axes):
    at, x = level(axes, 0.4), torch.zeros(1, dtype=torch.float64)
    plain, inflated = (Churn(0.3, s_noise=s)(x, at, Unit())[0] for s in (1.0, 1.007))
    assert (inflated / plain).item() == pytest.approx(1.007)


def test_only_between_s_min_and_s_max(axes):
    at, x = level(axes, 0.4), torch.zeros(1, dtype=torch.float64)
    s = (at.sigma / at.alpha).item()
    for churn, acts in (
        (Churn(0.1, 0.9 * s, 1.1 * s), True),
        (Churn(0.1, 1.1 * s), False),
        (Churn(0.1, 0.0, 0.9 * s), False),
    ):
        assert (churn(x, at, Unit())[1] is not at) == acts


def test_it_stops_at_the_noisiest_level(axes):
    first, near = level(axes, 1.0), level(axes, 0.999)
    x = torch.zeros(2, 1, dtype=torch.float64)
    assert Churn(0.4)(x, first, GeneratorSource(0))[1] is first
    raised, to = Churn(0.4)(x, near, Unit())
    assert to.logsnr.item() == pytest.approx(first.logsnr.item(), abs=1e-6)
    assert to.t <= 1
    assert raised.isfinite().all()


@pytest.mark.parametrize(
    "bad", [{"gamma": 0.5}, {"gamma": -0.1}, {"gamma": 0.1, "s_min": 2.0, "s_max": 1.0}, {"gamma": 0.1, "s_noise": 0.0}]
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(UserError, match="Churn"):
        Churn(**bad)


def test_the_papers_largest_gamma_is_allowed():
    assert Churn(math.sqrt(2) - 1).gamma < 0.4143
