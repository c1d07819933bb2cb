"""The exact integral of a polynomial under the flow's exponential."""

import pytest
import torch

from lightning_gen.diffusion.solvers.exponential import interpolated, moments

DOUBLE = torch.float64


def quadrature(h, function, num=20_001):
    u = torch.linspace(0, 1, num, dtype=DOUBLE)
    return torch.trapezoid(h * torch.exp(-h * (1 - u)) * function(u), u)


@pytest.mark.parametrize("h", [0.01, 0.3, 2.0, 15.0])
def test_moments_are_the_integrals(h):
    found = moments(torch.tensor(h, dtype=DOUBLE), 4)
    for k, moment in enumerate(found):
        assert moment.item() == pytest.approx(quadrature(h, lambda u, k=k: u**k).item(), rel=2e-6)


@pytest.mark.parametrize("nodes", [[0.0], [0.0, -1.0], [0.0, -0.4, -2.5], [0.0, -1.0, -1.7, 1.0]])
def test_a_polynomial_through_its_points_is_integrated_exactly(nodes):
    """Of the highest degree that the points determine, wherever they lie, in whatever order."""
    h = torch.tensor(0.8, dtype=DOUBLE)
    coefficients = [0.3, -1.2, 0.7, 0.5][: len(nodes)]

    def polynomial(u):
        return sum(c * u**k for k, c in enumerate(coefficients))

    where = [torch.tensor(u, dtype=DOUBLE) for u in nodes]
    found = interpolated(moments(h, len(nodes)), where, [polynomial(u).reshape(1) for u in where])
    assert found.item() == pytest.approx(sum(c * m for c, m in zip(coefficients, moments(h, 4))).item(), rel=1e-12)


def test_short_steps_keep_their_digits():
    """1 - exp(-h), h and steps a thousand times longer before them, in values that hardly differ."""
    h = torch.tensor(1e-4, dtype=DOUBLE)
    where = [torch.tensor(u, dtype=DOUBLE) for u in (0.0, -1e3, -2e3)]
    values = [torch.tensor([1.0 + 1e-6 * u], dtype=DOUBLE) for u in (0.0, -1e3, -2e3)]
    expected = -torch.expm1(-h) + 1e-6 * quadrature(1e-4, lambda u: u)
    assert interpolated(moments(h, 3), where, values).item() == pytest.approx(expected.item(), rel=1e-12)
