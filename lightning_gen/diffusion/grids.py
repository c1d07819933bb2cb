"""Where a solver's steps lie."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.errors import UserError

LOWEST_LOGSNR = -20.0
"""Below it less than 5e-5 of x is data: one step leads from a schedule's end there, so that none is lost on it."""


class Grid(ABC):
    """A new grid defines `times`."""

    @abstractmethod
    def times(self, steps: int, schedule: NoiseSchedule, device: torch.device | None = None) -> Tensor:
        """[steps + 1] times falling from 1 to 0, float64, on the device where the schedule is."""


class UniformTime(Grid):
    """Equal steps in t."""

    def times(self, steps: int, schedule: NoiseSchedule, device: torch.device | None = None) -> Tensor:
        return torch.arange(steps, -1, -1, dtype=torch.float64, device=device) / steps


class UniformLogSNR(Grid):
    """Equal steps in log-SNR, whatever the schedule the network was trained with."""

    def times(self, steps: int, schedule: NoiseSchedule, device: torch.device | None = None) -> Tensor:
        return _pinned(torch.linspace(*_ends(schedule), steps + 1, dtype=torch.float64, device=device), schedule)


class KarrasRho(Grid):
    """Equal steps in (sigma / alpha)^(1/rho) (Karras et al. 2022, eq. 5): short ones where there is little noise left.

    Args:
        rho: 7 in the paper; the larger, the nearer to equal steps in log-SNR.
    """

    def __init__(self, rho: float = 7.0) -> None:
        if rho <= 0:
            raise UserError(f"KarrasRho's rho must be positive, got {rho}")
        self.rho = rho

    def times(self, steps: int, schedule: NoiseSchedule, device: torch.device | None = None) -> Tensor:
        first, last = (math.exp(-0.5 * end / self.rho) for end in _ends(schedule))
        root = first + torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=device) * (last - first)
        return _pinned(-2 * self.rho * root.log(), schedule)


def _ends(schedule: NoiseSchedule) -> tuple[float, float]:
    """Log-SNR between which the steps are laid."""
    return max(schedule.logsnr_min, LOWEST_LOGSNR), schedule.logsnr_max


def _pinned(logsnr: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Their times, the first and the last exactly 1 and 0."""
    times = schedule.time(logsnr).clamp(0.0, 1.0)
    times[0], times[-1] = 1.0, 0.0
    return times
