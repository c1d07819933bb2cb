"""Schedules given by the range of sigma on the VE path, where logsnr = -2 log sigma."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_gen.diffusion.schedules.base import NoiseSchedule
from lightning_gen.diffusion.schedules.shapes import LinearLogSNR
from lightning_gen.errors import UserError


def _ends(name: str, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """logsnr_min and logsnr_max of a range of sigma."""
    if not 0.0 < sigma_min < sigma_max < math.inf:
        raise UserError(f"{name} needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    return -2 * math.log(sigma_max), -2 * math.log(sigma_min)


class Karras(NoiseSchedule):
    """EDM's range of sigma, sigma(t)^(1/rho) linear in t (Karras et al. 2022, eq. 5): rho = 7 dwells at low noise.

    Its ends are those of sigma, log-SNR -8.76 to 12.43 at the defaults; `Truncated` narrows them.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        nn.Module.__init__(self)  # the ends are given by sigma: nothing to pin
        self.logsnr_min, self.logsnr_max = _ends("Karras", sigma_min, sigma_max)
        if not 0.0 < rho < math.inf:
            raise UserError(f"Karras's rho must be positive, got {rho}")
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho
        self._first = sigma_min ** (1 / rho)
        self._rise = sigma_max ** (1 / rho) - self._first

    def _logsnr(self, u: Tensor) -> Tensor:
        return -2 * self.rho * (self._first + self._rise * u).log()

    def _dlogsnr_du(self, u: Tensor) -> Tensor:
        return -2 * self.rho * self._rise / (self._first + self._rise * u)

    def _time(self, logsnr: Tensor) -> Tensor:
        return (torch.exp(-logsnr / (2 * self.rho)) - self._first) / self._rise


class Geometric(LinearLogSNR):
    """The VE SDE's sigma(t) = sigma_min (sigma_max / sigma_min)^t (Song & Ermon 2019; Song et al. 2021, eq. 30).

    Its ends are those of sigma, log-SNR -7.82 to 9.21 at the defaults.
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        super().__init__(*_ends("Geometric", sigma_min, sigma_max))
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
