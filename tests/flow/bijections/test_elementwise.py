"""Bijections of each number alone."""

import math

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.flow import Affine, Elementwise, Logit, RationalQuadraticSpline

X = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.0, 0.05])
def test_logit_is_the_papers(alpha):
    """logit(alpha + (1 - 2 alpha) x), Dinh et al. (2017), and log-odds where alpha is 0."""
    x = torch.tensor([[0.1, 0.5, 0.9]], dtype=torch.float64)
    z, log_det = Logit((3,), alpha=alpha)(x)
    inside = alpha + (1 - 2 * alpha) * x
    torch.testing.assert_close(z, (inside / (1 - inside)).log())
    torch.testing.assert_close(log_det, ((1 - 2 * alpha) / inside / (1 - inside)).log().sum(1))


def test_logit_in_float32_is_good_up_to_both_ends():
    x = torch.tensor([0.0, 1e-6, 0.25, 1 - 2.0**-23, 1.0])
    layer = Logit((5,), alpha=0.05)
    z, log_det = layer(x[None])
    exact, exact_log_det = layer(x[None].double())
    assert z.isfinite().all()
    torch.testing.assert_close(z.double(), exact, rtol=0, atol=1e-5)
    torch.testing.assert_close(log_det.double(), exact_log_det, rtol=0, atol=1e-5)
    torch.testing.assert_close(layer.inverse(z)[0], x, rtol=0, atol=1e-6)


def test_the_inverse_of_the_logit_leaves_the_cube_by_so_much_at_most():
    ends = Logit((2,), alpha=0.05).inverse(torch.tensor([[-1e3, 1e3]]))
    torch.testing.assert_close(ends, torch.tensor([[-0.05 / 0.9, 1 + 0.05 / 0.9]]))


@pytest.mark.parametrize("alpha", [-0.1, 0.5])
def test_an_alpha_that_leaves_nothing_is_refused(alpha):
    with pytest.raises(UserError, match=r"alpha of Logit lies in \[0, 0.5\)"):
        Logit((2,), alpha=alpha)


def test_it_starts_as_the_identity_whatever_the_condition():
    for transform in (None, RationalQuadraticSpline(4)):
        layer = Elementwise((2, 3, 4), 3, transform).double()
        z, log_det = layer(X, torch.randn(5, 3, dtype=torch.float64))
        torch.testing.assert_close(z, X)
        torch.testing.assert_close(log_det, torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize(("per_channel", "sets"), [(True, 2), (False, 24)])
def test_a_channel_or_each_number_has_parameters_of_its_own(shaken, per_channel, sets):
    layer = shaken(Elementwise((2, 3, 4), None, Affine(None), per_channel=per_channel).double())
    assert sum(p.numel() for p in layer.parameters()) == 2 * sets
    slopes = layer(X)[0] - layer(X - 1)[0]
    assert len(slopes[0].mul(1e9).round().unique()) == sets
    assert (slopes - slopes[0]).abs().max() < 1e-9


def test_it_is_a_gaussian_prior_that_a_condition_moves(shaken):
    """N(0, 1) of its output and its log-determinant: a Gaussian of mean -shift / scale and deviation 1 / scale."""
    layer = shaken(Elementwise((1,), 2, Affine(None)).double(), scale=0.7)
    found = []
    for cond in torch.eye(2, dtype=torch.float64):
        x = torch.linspace(-40, 40, 40_001, dtype=torch.float64)[:, None]
        z, log_det = layer(x, cond.expand(len(x), 2))
        log_prob = -0.5 * z[:, 0].square() - 0.5 * math.log(2 * math.pi) + log_det
        assert abs(torch.trapezoid(log_prob.exp(), x[:, 0]) - 1) < 1e-6
        found.append((torch.trapezoid(x[:, 0] * log_prob.exp(), x[:, 0])).item())
        shift, log_scale = (layer.constant[:, 0] + layer.of_condition.weight @ cond).unbind()
        assert abs(found[-1] + (shift * (-log_scale).exp()).item()) < 1e-6
    assert abs(found[0] - found[1]) > 0.1
