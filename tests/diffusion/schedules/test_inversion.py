"""The inverse of increasing functions, gentle and steep."""

import pytest
import torch

from lightning_gen.diffusion.schedules.inversion import inverse

FUNCTIONS = {
    "line": (lambda x: 3 * x - 1, lambda x: torch.full_like(x, 3.0)),
    "flat at an end": (lambda x: x**3, lambda x: 3 * x**2),
    "step": (lambda x: torch.tanh(500 * (x - 0.3)) + x, lambda x: 500 / torch.cosh(500 * (x - 0.3)) ** 2 + 1),
    "root": (lambda x: (x + 1e-6).sqrt(), lambda x: 0.5 / (x + 1e-6).sqrt()),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_finds_x_to_rounding(name):
    function, slope = FUNCTIONS[name]
    x = torch.linspace(0, 1, 331, dtype=torch.float64)[1:]
    found = inverse(lambda x: (function(x), slope(x)), function(x))
    conditioning = 1e-15 * (1 + 1 / slope(x))  # what the rounding of the value leaves open
    assert ((found - x).abs() <= 10 * conditioning).all()


def test_values_out_of_reach_give_the_nearer_end():
    value = torch.tensor([-5.0, 0.0, 1.0, 7.0], dtype=torch.float64)
    found = inverse(lambda x: (x, torch.ones_like(x)), value)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-12)
