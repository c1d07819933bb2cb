"""Schedules whose log-SNR is written down as a function of time."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lightning_gen.diffusion.schedules.base import NoiseSchedule, check_order
from lightning_gen.errors import UserError


class Cosine(NoiseSchedule):
    """logsnr = -2 log tan(pi u / 2), that is alpha = cos(pi u / 2) on the VP path (Nichol & Dhariwal 2021, offset 0).

    Reaches every log-SNR.
    """

    def _logsnr(self, u: Tensor) -> Tensor:
        return -2 * torch.tan(0.5 * math.pi * u).log()

    def _dlogsnr_du(self, u: Tensor) -> Tensor:
        return -2 * math.pi / torch.sin(math.pi * u)

    def _time(self, logsnr: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan(torch.exp(-0.5 * logsnr))


class Sigmoid(NoiseSchedule):
    """alpha^2 falls along a stretch of the logistic curve, scaled to run from 1 to 0 (Jabri et al. 2023; Chen 2023).

    alpha^2(u) = (S(z_1) - S(z(u))) / (S(z_1) - S(z_0)), z(u) = (start + (end - start) u) / tau, S the logistic function.
    Reaches every log-SNR.
    """

    def __init__(
        self,
        start: float = -3.0,
        end: float = 3.0,
        tau: float = 1.0,
        logsnr_min: float = -10.0,
        logsnr_max: float = 10.0,
    ) -> None:
        if not (start < end and tau > 0):
            raise UserError(f"Sigmoid needs start < end and tau > 0, got {start}, {end} and {tau}")
        self.start, self.end, self.tau = start, end, tau
        self.first, self.width = start / tau, (end - start) / tau
        super().__init__(logsnr_min, logsnr_max)

    def _parts(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z(u), and S(z_1) - S(z) and S(z) - S(z_0) up to a common factor.

        S(b) - S(a) = sinh((b - a) / 2) / (2 cosh(a / 2) cosh(b / 2)) does not cancel; 2 cosh(z / 2) is left out of both.
        """
        z = self.first + self.width * u
        alpha2 = torch.sinh(0.5 * self.width * (1 - u)) / math.cosh(0.5 * (self.first + self.width))
        sigma2 = torch.sinh(0.5 * self.width * u) / math.cosh(0.5 * self.first)
        return z, alpha2, sigma2

    def _logsnr(self, u: Tensor) -> Tensor:
        _, alpha2, sigma2 = self._parts(u)
        return alpha2.log() - sigma2.log()

    def _dlogsnr_du(self, u: Tensor) -> Tensor:
        z, alpha2, sigma2 = self._parts(u)
        return -self.width / (2 * torch.cosh(0.5 * z)) * (1 / alpha2 + 1 / sigma2)

    def _time(self, logsnr: Tensor) -> Tensor:
        # S(z) = S(z_0) + sigma^2 (S(z_1) - S(z_0)); its logit from the two tails, each a sum of positive numbers.
        low, high = self.first, self.first + self.width
        alpha2, sigma2 = torch.sigmoid(logsnr), torch.sigmoid(-logsnr)
        below = alpha2 / (1 + math.exp(-low)) + sigma2 / (1 + math.exp(-high))
        above = alpha2 / (1 + math.exp(low)) + sigma2 / (1 + math.exp(high))
        return ((below / above).log() - low) / self.width


class FlowMatching(NoiseSchedule):
    """logsnr = 2 log((1 - u) / u): sigma = u on the linear path (Lipman et al. 2023; Liu et al. 2023).

    Reaches every log-SNR.

    Args:
        shift: s of u' = s u / (1 + (s - 1) u), more noise at the same time for larger images (Esser et al. 2024, eq. 23):
            log-SNR lower by 2 log s before the ends are pinned.
    """

    def __init__(self, shift: float = 1.0, logsnr_min: float = -10.0, logsnr_max: float = 10.0) -> None:
        if not 0.0 < shift < math.inf:
            raise UserError(f"FlowMatching's shift must be positive, got {shift}")
        self.shift = shift
        super().__init__(logsnr_min, logsnr_max)

    def _logsnr(self, u: Tensor) -> Tensor:
        return -2 * torch.logit(u) - 2 * math.log(self.shift)

    def _dlogsnr_du(self, u: Tensor) -> Tensor:
        return -2 / (u * (1 - u))

    def _time(self, logsnr: Tensor) -> Tensor:
        return torch.exp(logsigmoid(-0.5 * logsnr - math.log(self.shift)))


class Laplace(NoiseSchedule):
    """logsnr = location - scale sgn(1/2 - u) log(1 - 2 |u - 1/2|) with the sign that falls (Hang et al. 2024, table 1).

    Under uniform u log-SNR has the Laplace law: times crowd about `location`, which lies between the ends. Reaches
    location +- 700 scale, where the law's tails underflow.
    """

    def __init__(
        self, location: float = 0.0, scale: float = 0.5, logsnr_min: float = -10.0, logsnr_max: float = 10.0
    ) -> None:
        if not 0.0 < scale < math.inf:
            raise UserError(f"Laplace's scale must be positive, got {scale}")
        check_order(logsnr_min, logsnr_max)
        if not logsnr_min < location < logsnr_max:
            raise UserError(
                f"Laplace's location must lie between {logsnr_min} and {logsnr_max}, its ends, got {location}"
            )
        low, high = location - 700 * scale, location + 700 * scale
        if logsnr_min < low or logsnr_max > high:
            raise UserError(
                f"Laplace of scale {scale} reaches log-SNR {low:g} to {high:g}, not the {logsnr_min} to {logsnr_max} asked for"
            )
        self.location, self.scale = location, scale
        super().__init__(logsnr_min, logsnr_max)
        # 1 - u at t = 1, which u itself would round away
        self._rest = self._above(torch.tensor(-self.logsnr_min, dtype=torch.float64), -location).item()

    def _above(self, logsnr: Tensor, location: float) -> Tensor:
        """The law's mass above this log-SNR."""
        z = (logsnr - location) / self.scale
        tail = 0.5 * torch.exp(-z.abs())
        return torch.where(z > 0, tail, 1 - tail)

    def _tails(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """u and 1 - u, each exact where it is small."""
        return self._start + self._span * t, self._rest + self._span * (1 - t)

    def logsnr(self, t: Tensor) -> Tensor:
        return self._quantile(*self._tails(t))

    def dlogsnr_dt(self, t: Tensor) -> Tensor:
        return -self._span * self.scale / torch.minimum(*self._tails(t))

    def _quantile(self, u: Tensor, rest: Tensor) -> Tensor:
        depth = self.scale * (2 * torch.where(u < rest, u, rest)).log()
        return self.location + torch.where(u < rest, -depth, depth)

    def _logsnr(self, u: Tensor) -> Tensor:
        return self._quantile(u, 1 - u)

    def _dlogsnr_du(self, u: Tensor) -> Tensor:
        return -self.scale / torch.minimum(u, 1 - u)

    def _time(self, logsnr: Tensor) -> Tensor:
        return self._above(logsnr, self.location)


class LinearLogSNR(NoiseSchedule):
    """log-SNR linear in t between its ends (Kingma et al. 2021, the fixed form; EDM's sampling is its rho -> infinity)."""

    def _logsnr(self, u: Tensor) -> Tensor:
        return self._ends[0] + (self._ends[1] - self._ends[0]) * u

    def _dlogsnr_du(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self._ends[1] - self._ends[0])

    def _time(self, logsnr: Tensor) -> Tensor:
        return (logsnr - self._ends[0]) / (self._ends[1] - self._ends[0])

    @property
    def _ends(self) -> tuple[float, float]:
        return self.logsnr_max, self.logsnr_min
