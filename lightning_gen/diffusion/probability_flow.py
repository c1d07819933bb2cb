"""The probability flow of a denoiser, in coordinates in which it is well conditioned from end to end."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gen.broadcasting import broadcast
from lightning_gen.diffusion.denoisers import Denoiser
from lightning_gen.diffusion.paths import NoiseLevel


class ProbabilityFlow:
    """du/dl = a s (s E[x0 | x_t] - a E[eps | x_t]) / 2 along l = log-SNR, with a^2 = sigmoid(l) and s^2 = sigmoid(-l).

    It is the ODE of Song et al. 2021 (eq. 13) for u = x_t / sqrt(alpha^2 + sigma^2), which is a x0 + s eps on every path.
    Schedule and path have dropped out but for the ends, u is of order 1 everywhere, so that one tolerance means the same at
    both ends, and the right side dies out as exp(-|l| / 2), where in t it may be singular.

    Args:
        denoiser: whose flow it is.
        y: of the batch, [B] or [B, ...], or None.
    """

    def __init__(self, denoiser: Denoiser, y: Tensor | None) -> None:
        self.denoiser, self.y = denoiser, y

    def __call__(self, rows: Tensor, logsnr: Tensor, u: Tensor) -> Tensor:
        """du/dlogsnr of the examples `rows` [A] of the batch, at logsnr [A] and u [A, ...]."""
        alpha, sigma, _, _ = self.denoiser.path.scales(logsnr)
        x_t = broadcast(torch.hypot(alpha, sigma), u) * u
        prediction = self.denoiser(x_t, logsnr, None if self.y is None else self.y[rows])
        a, s = (broadcast(torch.sigmoid(sign * logsnr).sqrt(), u) for sign in (1, -1))
        return 0.5 * a * s * (s * prediction.x0 - a * prediction.eps)


def unit_scale(level: NoiseLevel) -> Tensor:
    """sqrt(alpha^2 + sigma^2), [B] or []: x_t is that times u."""
    return torch.hypot(level.alpha, level.sigma)
