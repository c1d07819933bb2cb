"""The contract of a noise schedule, and the pinning of its ends.

A schedule is written in its paper's own time u, where it may run off to +-infinity at the ends. The base class maps
t in [0, 1] linearly onto the stretch of u between two pinned end points, so every schedule is finite and, by default,
all have the same ends: the continuous-time ELBO depends on nothing else of them (Kingma et al. 2021, eq. 18).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_gen.errors import UserError

if TYPE_CHECKING:
    from lightning_gen.diffusion.schedules.learned import GradientScale


class NoiseSchedule(nn.Module, ABC):
    """logsnr(t) = log(alpha^2 / sigma^2), strictly falling in t.

    A new schedule defines `_logsnr(u)`, `_dlogsnr_du(u)` and `_time(logsnr)`, its shape in the paper's own time. One whose
    ends follow from its other arguments sets `logsnr_min` and `logsnr_max` itself, and t is its own time.

    Args:
        logsnr_min: log-SNR at t = 1, nats.
        logsnr_max: log-SNR at t = 0, nats.

    Attributes:
        learned: whether it has parameters that training moves.

    Raises:
        UserError: if the ends are not finite, not in order, or beyond what the shape reaches.
    """

    learned: bool = False
    logsnr_min: float
    logsnr_max: float
    _start: float = 0.0
    _span: float = 1.0

    def __init__(self, logsnr_min: float = -10.0, logsnr_max: float = 10.0) -> None:
        super().__init__()
        self._pin(logsnr_min, logsnr_max)

    def _pin(self, logsnr_min: float, logsnr_max: float) -> None:
        """Lays t in [0, 1] onto the stretch of u between two values of log-SNR."""
        check_order(logsnr_min, logsnr_max)
        self.logsnr_min, self.logsnr_max = float(logsnr_min), float(logsnr_max)
        # Truncation remaps t. Clipping log-SNR would leave stretches of t in which nothing happens.
        ends = torch.tensor([logsnr_max, logsnr_min], dtype=torch.float64)
        start, end = self._time(ends).tolist()
        if not (-1e-9 <= start < end <= 1.0 + 1e-9):  # a shape's own ends come back rounded
            low, high = self._logsnr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
            raise UserError(
                f"{type(self).__name__} reaches log-SNR {low:.4g} to {high:.4g}, not the {logsnr_min} to {logsnr_max} asked for"
            )
        start, end = max(start, 0.0), min(end, 1.0)
        self._start, self._span = start, end - start

    def logsnr(self, t: Tensor) -> Tensor:
        """log-SNR in nats at t in [0, 1]; same shape and dtype as t."""
        return self._logsnr(self._start + self._span * t)

    def dlogsnr_dt(self, t: Tensor) -> Tensor:
        """Derivative of `logsnr` in t, nats; negative everywhere."""
        return self._span * self._dlogsnr_du(self._start + self._span * t)

    def logsnr_and_slope(self, t: Tensor, scale: GradientScale | None = None) -> tuple[Tensor, Tensor]:
        """`logsnr(t)` and `dlogsnr_dt(t)`; `scale` is of the gradient into a learned schedule's shape."""
        return self.logsnr(t), self.dlogsnr_dt(t)

    def time(self, logsnr: Tensor) -> Tensor:
        """The t at which log-SNR has this value: the inverse of `logsnr`."""
        return (self._time(logsnr) - self._start) / self._span

    @abstractmethod
    def _logsnr(self, u: Tensor) -> Tensor: ...

    @abstractmethod
    def _dlogsnr_du(self, u: Tensor) -> Tensor: ...

    @abstractmethod
    def _time(self, logsnr: Tensor) -> Tensor: ...

    def extra_repr(self) -> str:
        return f"logsnr_min={self.logsnr_min}, logsnr_max={self.logsnr_max}"


def check_order(logsnr_min: float, logsnr_max: float) -> None:
    """Refuses ends that are not finite or not in order."""
    if not -math.inf < logsnr_min < logsnr_max < math.inf:
        raise UserError(f"a schedule needs finite logsnr_min < logsnr_max, got {logsnr_min} and {logsnr_max}")
