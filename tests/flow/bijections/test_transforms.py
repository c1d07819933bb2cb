"""Transforms of single numbers: increasing, the identity without parameters, as the papers write them."""

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.flow import Additive, Affine, RationalQuadraticSpline

TRANSFORMS = [Additive(), Affine(), Affine(bound=None), RationalQuadraticSpline(4)]
X = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def params_of(transform, scale):
    shape = (3, transform.features, 2, 5)
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_without_parameters_it_is_the_identity(transform):
    z, log_derivative = transform.forward(X, params_of(transform, 0.0))
    torch.testing.assert_close(z, X)
    torch.testing.assert_close(log_derivative, torch.zeros_like(X))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_each_number_knows_its_own_derivative_and_its_way_back(transform):
    params, x = params_of(transform, 2.0), X.clone().requires_grad_()
    z, log_derivative = transform.forward(x, params)
    (derivative,) = torch.autograd.grad(z.sum(), x)
    assert (derivative > 0).all() and log_derivative.shape == X.shape
    torch.testing.assert_close(log_derivative, derivative.log(), rtol=0, atol=1e-9)
    torch.testing.assert_close(transform.inverse(z, params), x, rtol=0, atol=1e-9)


def test_the_papers_formulas():
    """NICE: x + t; RealNVP: x exp(s) + t. The first parameter is the shift, the second the log-scale."""
    shift, log_scale = params_of(Affine(), 1.0).unbind(1)
    assert torch.equal(Additive().forward(X, shift[:, None])[0], X + shift)
    z, _ = Affine(bound=None).forward(X, torch.stack([shift, log_scale], 1))
    torch.testing.assert_close(z, X * log_scale.exp() + shift)


@pytest.mark.parametrize("bound", [0.5, 3.0])
def test_no_scale_beyond_the_bound_and_small_ones_as_they_are(bound):
    params = torch.tensor([-1e4, -1e-4, 1e-4, 1e4], dtype=torch.float64).view(1, 1, 4).repeat(1, 2, 1)
    _, log_scale = Affine(bound).forward(torch.ones(1, 4, dtype=torch.float64), params)
    expected = torch.tensor([[-bound, -1e-4, 1e-4, bound]], dtype=torch.float64)
    torch.testing.assert_close(log_scale, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bound", [0.0, -1.0])
def test_a_bound_that_bounds_nothing_is_refused(bound):
    with pytest.raises(UserError, match="bound of an affine transform.* must be positive"):
        Affine(bound)
