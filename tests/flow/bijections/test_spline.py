"""The rational-quadratic spline: monotone, smooth at its knots, the identity beyond, and invertible however extreme."""

import math

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.flow import RationalQuadraticSpline


def random_params(spline, num, scale, seed=0):
    return scale * torch.randn(num, spline.features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grid(reach, num=4001):
    return torch.linspace(-reach, reach, num, dtype=torch.float64)


def shared(params, x):
    """One example's parameters for every number of x."""
    return params.expand(len(x), -1)


@pytest.mark.parametrize("scale", [0.5, 3.0, 10.0])
def test_it_rises_everywhere(scale):
    spline, x = RationalQuadraticSpline(8, reach=3.0), grid(4.0)
    for params in random_params(spline, 5, scale):
        z, log_derivative = spline.forward(x, shared(params, x))
        assert (z.diff() > 0).all() and log_derivative.isfinite().all()
        assert z[0] == x[0] and z[-1] == x[-1]


def test_it_and_its_derivative_have_no_jump_neither_at_the_knots_nor_at_the_ends():
    spline, x = RationalQuadraticSpline(5, reach=3.0), grid(3.2, 40_001)
    for params in random_params(spline, 3, 0.5):
        z, log_derivative = spline.forward(x, shared(params, x))
        slope = z.diff() / x.diff()
        assert log_derivative.abs().max() > 0.3
        assert slope.max() < 10 and log_derivative.diff().abs().max() < 0.03
        torch.testing.assert_close(slope.log(), (log_derivative[1:] + log_derivative[:-1]) / 2, rtol=0, atol=1e-2)


def test_without_parameters_and_beyond_its_reach_it_is_the_identity():
    spline, x = RationalQuadraticSpline(8, reach=3.0), grid(6.0)
    z, log_derivative = spline.forward(x, torch.zeros(len(x), spline.features, dtype=torch.float64))
    torch.testing.assert_close(z, x)
    torch.testing.assert_close(log_derivative, torch.zeros_like(x))
    params = shared(random_params(spline, 1, 2.0)[0], x)
    (z, log_derivative), back, beyond = spline.forward(x, params), spline.inverse(x, params), x.abs() > 3.0
    assert torch.equal(z[beyond], x[beyond]) and torch.equal(back[beyond], x[beyond])
    assert not log_derivative[beyond].any()
    assert (z[~beyond] - x[~beyond]).abs().max() > 0.1


@pytest.mark.parametrize(("scale", "bins"), [(1.0, 1), (3.0, 8), (10.0, 8), (100.0, 16)])
def test_the_inverse_of_the_most_extreme_parameters(scale, bins):
    spline, x = RationalQuadraticSpline(bins, reach=4.0), grid(5.0, 501)
    for params in random_params(spline, 20, scale):
        z, log_derivative = spline.forward(x, shared(params, x))
        back = spline.inverse(z, shared(params, x))
        # what a number is told apart by after a slope
        lost = 1e-13 * (1 + (-log_derivative).exp())
        assert ((back - x).abs() < 1e-9 + 10 * lost).all()
        again, _ = spline.forward(spline.inverse(x, shared(params, x)), shared(params, x))
        torch.testing.assert_close(again, x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("scale", [3.0, 100.0])
def test_float32_stays_finite_and_within_reach(scale):
    spline, x = RationalQuadraticSpline(8, reach=4.0), grid(4.0, 1001).float()
    for params in random_params(spline, 10, scale).float():
        z, log_derivative = spline.forward(x, shared(params, x))
        back = spline.inverse(x, shared(params, x))
        assert log_derivative.isfinite().all() and z.isfinite().all() and back.isfinite().all()
        assert max(z.abs().max(), back.abs().max()) <= 4.0 + 1e-6


def test_gradients_are_finite_on_knots_at_the_ends_and_far_beyond():
    spline = RationalQuadraticSpline(4, reach=3.0)
    x = torch.tensor([-1e4, -3.0, -1.5, 0.0, 1.5, 3.0, 1e4], requires_grad=True)  # the knots of no parameters
    params = torch.zeros(len(x), spline.features, requires_grad=True)
    for out in (*spline.forward(x, params), spline.inverse(x, params)):
        for grad in torch.autograd.grad(out.sum(), (x, params), retain_graph=True):
            assert grad.isfinite().all()


def test_a_bin_has_the_least_width_height_and_slope_that_was_asked_for():
    spline = RationalQuadraticSpline(4, reach=2.0, least=0.1)
    params = torch.zeros(1, spline.features, dtype=torch.float64)
    params[0, 0] = params[0, 4 + 3] = params[0, 8] = -1e3  # the first width, the last height, the first inner slope
    x = torch.tensor([-2.0 + 0.1 * 4], dtype=torch.float64)  # where the first bin ends
    z, log_derivative = spline.forward(x, params)
    torch.testing.assert_close(log_derivative.exp(), torch.tensor([0.1], dtype=torch.float64))
    torch.testing.assert_close(z, torch.tensor([-2.0 + 0.3 * 4], dtype=torch.float64))


@pytest.mark.parametrize("least", [1e-3, 1e-2])
def test_agrees_with_normflows(least):
    """Its raw derivatives lack the constant that makes zero the identity."""
    splines = pytest.importorskip("normflows.utils.splines")
    spline, x = RationalQuadraticSpline(7, reach=3.0, least=least), grid(3.5, 300)
    params = random_params(spline, len(x), 2.0)
    widths, heights, slopes = params.split([7, 7, 6], 1)
    settings = {"tail_bound": 3.0, "min_bin_width": least, "min_bin_height": least, "min_derivative": least}
    theirs = (widths, heights, slopes + math.log(math.expm1(1 - least)))
    z, log_derivative = spline.forward(x, params)
    expected, expected_log = splines.unconstrained_rational_quadratic_spline(x, *theirs, **settings)
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(log_derivative, expected_log, rtol=0, atol=1e-9)
    back, _ = splines.unconstrained_rational_quadratic_spline(z, *theirs, inverse=True, **settings)
    torch.testing.assert_close(spline.inverse(z, params), back, rtol=0, atol=1e-8)


def test_agrees_with_zuko():
    """Which bounds its raw numbers softly and takes slopes by the exponential: ours are made of what comes of that."""
    transforms = pytest.importorskip("zuko.transforms")
    least, bound = 1e-12, math.log(1e-3)
    spline, x = RationalQuadraticSpline(6, reach=3.0, least=least), grid(3.5, 300)
    widths, heights, slopes = random_params(spline, len(x), 2.0).split([6, 6, 5], 1)
    theirs = transforms.MonotonicRQSTransform(widths, heights, slopes, bound=3.0, slope=1e-3)
    sizes = [raw / (1 + (2 * raw / bound).abs()) for raw in (widths, heights)]
    wanted = (slopes / (1 + (slopes / bound).abs())).exp()
    raw = (wanted - least).expm1().log() - math.log(math.expm1(1 - least))
    params = torch.cat([*sizes, raw], 1)
    z, log_derivative = spline.forward(x, params)
    expected, expected_log = theirs.call_and_ladj(x)
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(log_derivative, expected_log, rtol=0, atol=1e-8)
    torch.testing.assert_close(spline.inverse(z, params), theirs.inv(z), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "settings", [{"bins": 0}, {"reach": 0.0}, {"reach": -1.0}, {"least": 0.0}, {"bins": 8, "least": 0.125}]
)
def test_what_is_no_spline_is_refused(settings):
    with pytest.raises(UserError, match="a bin or more, a positive reach, and .* least"):
        RationalQuadraticSpline(**settings)
