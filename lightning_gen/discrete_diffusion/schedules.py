"""How fast a discrete diffusion forgets: alpha(t), the share of components to which nothing has happened by t."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_gen.errors import UserError

LOGSNR_LIMIT = 15.0
"""Nats; networks are told of no log-SNR beyond."""


class Schedule(ABC):
    """alpha falls from 1 at t = 0 to (nearly) 0 at t = 1; a chain of T steps has beta_i = 1 - alpha(i/T) / alpha((i-1)/T).

    A new schedule defines `alpha` and `dalpha_dt`.
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """At t in [0, 1], float64, any shape."""

    @abstractmethod
    def dalpha_dt(self, t: Tensor) -> Tensor:
        """Its derivative, at most 0."""

    def logsnr(self, t: Tensor) -> Tensor:
        """log alpha / (1 - alpha), nats, float32 within +-15: the noise level as networks are told it."""
        return logit(self.alpha(t))


def logit(alpha: Tensor) -> Tensor:
    """log alpha / (1 - alpha) of a share, float32 within `LOGSNR_LIMIT`."""
    return torch.special.logit(alpha).clamp(-LOGSNR_LIMIT, LOGSNR_LIMIT).float()


class Linear(Schedule):
    """beta rises linearly: alpha = exp(-(beta_min t + (beta_max - beta_min) t^2 / 2)).

    The defaults are DDPM's in the limit of many steps: a chain of 1000 has betas from 1e-4 to 0.02, those of D3PM's
    discretised Gaussian too (Austin et al. 2021).

    Args:
        beta_min: rate at t = 0.
        beta_max: rate at t = 1; not below it.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not 0 <= beta_min <= beta_max or not 0 < beta_max < math.inf:
            raise UserError(f"Linear needs 0 <= beta_min <= beta_max, got {beta_min} and {beta_max}")
        self.beta_min, self.beta_max = beta_min, beta_max

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-(self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t.square()))

    def dalpha_dt(self, t: Tensor) -> Tensor:
        return -(self.beta_min + (self.beta_max - self.beta_min) * t) * self.alpha(t)


class Cosine(Schedule):
    """alpha = cos((t + offset) / (1 + offset) pi / 2), scaled to 1 at t = 0 (Hoogeboom et al. 2021; D3PM's for uniform noise).

    Args:
        offset: shifts the slow start, at least 0.
    """

    def __init__(self, offset: float = 0.008) -> None:
        if not 0 <= offset < math.inf:
            raise UserError(f"Cosine's offset is at least 0, got {offset}")
        self.offset = offset

    def _angle(self, t: Tensor | float) -> Tensor | float:
        return (t + self.offset) / (1 + self.offset) * (math.pi / 2)

    def alpha(self, t: Tensor) -> Tensor:
        # sin of what is left to pi / 2, over itself at t = 0: exactly 1 there, never above, and exactly 0 at t = 1
        whole = math.pi / 2 / (1 + self.offset)
        return torch.sin((1 - t) * whole) / torch.sin(torch.full_like(t, whole))

    def dalpha_dt(self, t: Tensor) -> Tensor:
        rate = math.pi / 2 / (1 + self.offset) / math.cos(self._angle(0.0))
        return -rate * torch.sin(self._angle(t))


class MutualInformation(Schedule):
    """alpha = 1 - t, beta_i = 1 / (T - i + 1) (Sohl-Dickstein et al. 2015).

    With an absorbing state the information about x_0 falls linearly (Austin et al. 2021).
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def dalpha_dt(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)
