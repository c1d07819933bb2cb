"""Schedules made of another one: truncated, shifted, brought to zero terminal SNR."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_gen.diffusion.schedules.base import NoiseSchedule
from lightning_gen.errors import UserError


class _Wrapper(NoiseSchedule):
    """A schedule whose own time is another's t.

    Raises:
        UserError: if the other one is learned: its ends move, and what is derived from them would not.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        nn.Module.__init__(self)  # before a child can be; a wrapper sets its own ends
        if schedule.learned:
            raise UserError(
                f"{type(self).__name__} takes no learned schedule: give {type(schedule).__name__} the ends to start from"
            )
        self.schedule = schedule


class Truncated(_Wrapper):
    """A schedule between narrower ends. t is laid anew between them; log-SNR is never clipped.

    Args:
        schedule: the one that is cut. It reaches from its own logsnr_min to its own logsnr_max.
        logsnr_min, logsnr_max: where.
    """

    def __init__(self, schedule: NoiseSchedule, logsnr_min: float, logsnr_max: float) -> None:
        super().__init__(schedule)
        self._pin(logsnr_min, logsnr_max)

    def _logsnr(self, u: Tensor) -> Tensor:
        return self.schedule.logsnr(u)

    def _dlogsnr_du(self, u: Tensor) -> Tensor:
        return self.schedule.dlogsnr_dt(u)

    def _time(self, logsnr: Tensor) -> Tensor:
        return self.schedule.time(logsnr)


class Shifted(_Wrapper):
    """log-SNR lower or higher by a constant at every t, and so are its ends.

    Larger images need more noise to lose as much: logsnr + 2 log(base / resolution) (Hoogeboom et al. 2023, eq. 3). For
    the ends of other schedules give the inner one ends that the shift brings there.

    Args:
        schedule: the one that is shifted.
        shift: by how much, nats; or else
        resolution: side of the images, and
        base: the side at which `schedule` is right as it is.
    """

    def __init__(
        self, schedule: NoiseSchedule, shift: float | None = None, resolution: int | None = None, base: int = 64
    ) -> None:
        super().__init__(schedule)
        if (shift is None) == (resolution is None):
            raise UserError("Shifted takes either a shift in nats or a resolution")
        if resolution is not None and (resolution < 1 or base < 1):
            raise UserError(f"Shifted's resolution and base must be positive, got {resolution} and {base}")
        self.shift, self.resolution, self.base = shift, resolution, base
        self._offset = float(shift) if resolution is None else 2 * math.log(base / resolution)
        if not math.isfinite(self._offset):
            raise UserError(f"Shifted's shift must be finite, got {shift}")
        self.logsnr_min, self.logsnr_max = schedule.logsnr_min + self._offset, schedule.logsnr_max + self._offset

    def _logsnr(self, u: Tensor) -> Tensor:
        return self.schedule.logsnr(u) + self._offset

    def _dlogsnr_du(self, u: Tensor) -> Tensor:
        return self.schedule.dlogsnr_dt(u)

    def _time(self, logsnr: Tensor) -> Tensor:
        return self.schedule.time(logsnr - self._offset)


class ZeroTerminal(_Wrapper):
    """alpha of the VP path stretched so that nothing of the data is left at t = 1, alpha(0) kept (Lin et al. 2024, alg. 1).

    Log-SNR has to be finite, so alpha(1) is not 0 but that of `logsnr_min`: 2e-9 at -40, which float32 loses beside noise of
    size 1. Neither noise nor score can be turned into data there, and the model refuses to predict them.

    Args:
        schedule: the one that is stretched; its logsnr_max is kept.
        logsnr_min: what stands for minus infinity, between -60 and the schedule's own.
    """

    def __init__(self, schedule: NoiseSchedule, logsnr_min: float = -40.0) -> None:
        super().__init__(schedule)
        if not -60.0 <= logsnr_min < schedule.logsnr_min:
            raise UserError(
                f"ZeroTerminal's logsnr_min must lie between -60 and its schedule's {schedule.logsnr_min:g}, got {logsnr_min}"
            )
        self.logsnr_min, self.logsnr_max = float(logsnr_min), schedule.logsnr_max
        # as the schedule itself rounds its ends: alpha(1) is what is left of them
        self._top, self._low = schedule.logsnr(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()

    def _stretched(self, logsnr: Tensor, low: float, to: float) -> tuple[Tensor, Tensor, Tensor]:
        """alpha, sigma^2 and d alpha' / d alpha under the affine map of alpha that keeps its top and brings `low` to `to`."""
        top, low, to = (torch.full_like(logsnr, end) for end in (self._top, low, to))
        gain = _drop(top, to) / _drop(top, low)
        alpha = torch.sigmoid(to).sqrt() + gain * _drop(logsnr, low)
        sigma2 = torch.sigmoid(-top) + gain * _drop(top, logsnr) * (torch.sigmoid(top).sqrt() + alpha)
        return alpha, sigma2, gain

    def _logsnr(self, u: Tensor) -> Tensor:
        alpha, sigma2, _ = self._stretched(self.schedule.logsnr(u.double()), self._low, self.logsnr_min)
        return (2 * alpha.log() - sigma2.log()).to(u.dtype)

    def _dlogsnr_du(self, u: Tensor) -> Tensor:
        logsnr = self.schedule.logsnr(u.double())
        alpha, sigma2, gain = self._stretched(logsnr, self._low, self.logsnr_min)
        # d logsnr = 2 d alpha / (alpha sigma^2), of the stretched over that of the other
        ratio = gain * torch.sigmoid(logsnr).sqrt() * torch.sigmoid(-logsnr) / (alpha * sigma2)
        return (ratio * self.schedule.dlogsnr_dt(u.double())).to(u.dtype)

    def _time(self, logsnr: Tensor) -> Tensor:
        alpha, sigma2, _ = self._stretched(logsnr.double(), self.logsnr_min, self._low)
        return self.schedule.time(2 * alpha.log() - sigma2.log()).to(logsnr.dtype)


def _drop(high: Tensor, low: Tensor) -> Tensor:
    """alpha(high) - alpha(low) of the VP path, without cancellation: S(h) - S(l) = S(h) S(-l) (1 - e^(l - h))."""
    alpha2 = torch.sigmoid(high), torch.sigmoid(low)
    return -alpha2[0] * torch.sigmoid(-low) * torch.expm1(low - high) / (alpha2[0].sqrt() + alpha2[1].sqrt())
