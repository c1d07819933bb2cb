"""Denoising again and again: x <- x - eta (x - D(x)), whose fixed points are the attractors of the denoiser."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_gen.dae.denoisers import Denoiser
from lightning_gen.errors import NonFiniteSamples, UserError
from lightning_gen.powers import Attractors


def iterate(
    denoiser: Denoiser,
    x: Tensor,
    sigma: float,
    y: Tensor | None = None,
    *,
    eta: float = 1.0,
    steps: int = 100,
    tolerance: float = 1e-4,
    stations: Sequence[int] = (),
) -> Attractors:
    """Iterates from x [B, ...] until |x - D(x)|, root mean square over the dimensions, is at most the tolerance.

    x - D(x) is -sigma^2 times the score, so this climbs log p at the level sigma. An example that has come to rest is left
    there, and costs no more.

    Args:
        sigma: the level at which the denoiser is asked, all along.
        eta: of the step; above 1 it overshoots, and at 2 or more nothing stops it.
        steps: at most.
        stations: after which steps, from 0, the points are kept.

    Raises:
        UserError: for an eta, steps or a tolerance that make no iteration.
        NonFiniteSamples: where it comes to points that are not finite.
    """
    if not 0 < eta < 2:
        raise UserError(f"eta lies between 0 and 2, got {eta}: beyond that the iteration runs away from what it seeks")
    if steps < 0 or not 0 <= tolerance < math.inf:
        raise UserError(f"steps and tolerance cannot be negative or infinite, got {steps} and {tolerance}")
    x, level = x.clone(), x.new_tensor(float(sigma))
    taken = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    residual = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    moving = torch.arange(len(x), device=x.device)
    kept: dict[int, Tensor] = {}
    for step in range(steps + 1):
        if step in stations:
            kept[step] = x.clone()
        if len(moving):
            here = x[moving]
            away = here - denoiser(here, level, None if y is None else y[moving])
            residual[moving] = length = away.flatten(1).square().mean(1).sqrt()
            if not length.isfinite().all():  # NaN is not above the tolerance, but at no rest
                raise NonFiniteSamples(f"denoising again and again with eta {eta:g} left what is finite at step {step}")
            still = length > tolerance
            moving, away = moving[still], away[still]
            if step < steps:
                x[moving] -= eta * away
                taken[moving] += 1
    path = torch.stack([kept.get(step, x) for step in stations], 1) if stations else None
    return Attractors(x, taken, residual <= tolerance, residual, float(sigma), path)
