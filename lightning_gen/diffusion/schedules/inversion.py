"""The inverse of an increasing function that has no closed one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def inverse(function: Callable[[Tensor], tuple[Tensor, Tensor]], value: Tensor) -> Tensor:
    """x in [0, 1] with function(x)[0] = value, elementwise, to rounding; the nearer end where there is none.

    Bisection finds the neighbourhood, Newton's steps, kept within the bracket, the rest: always the same number, so that
    nothing waits for the device.

    Args:
        function: x -> (an increasing function of x, its derivative), both of x's shape.
        value: what it should be; its dtype and shape are the answer's.
    """
    low, high = torch.zeros_like(value), torch.ones_like(value)
    x = torch.full_like(value, 0.5)
    for step in range(16 + 6):
        at, slope = function(x)
        low, high = torch.where(at < value, x, low), torch.where(at < value, high, x)
        x = 0.5 * (low + high) if step < 16 else torch.clamp(x + (value - at) / slope, low, high)
    return x
