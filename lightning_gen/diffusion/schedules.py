"""Noise schedules: how log-SNR falls as t goes from 0 (data) to 1 (noise). Shape only; the scale is the path's.

A schedule is written in its paper's own time u, where it may run off to +-infinity at the ends. The base class maps
t in [0, 1] linearly onto the stretch of u between two pinned end points, so every schedule is finite and, by default,
all have the same ends: the continuous-time ELBO depends on nothing else of them (Kingma et al. 2021, eq. 18).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from lightning_gen.errors import UserError


class NoiseSchedule(nn.Module, ABC):
    """logsnr(t) = log(alpha^2 / sigma^2), strictly falling in t.

    A new schedule defines `_logsnr(u)`, `_dlogsnr_du(u)` and `_time(logsnr)`, its shape in the paper's own time.

    Args:
        logsnr_min: log-SNR at t = 1, nats.
        logsnr_max: log-SNR at t = 0, nats.

    Raises:
        UserError: if the ends are not finite, not in order, or beyond what the shape reaches.
    """

    def __init__(self, logsnr_min: float = -10.0, logsnr_max: float = 10.0) -> None:
        super().__init__()
        if not -math.inf < logsnr_min < logsnr_max < math.inf:
            raise UserError(f"a schedule needs finite logsnr_min < logsnr_max, got {logsnr_min} and {logsnr_max}")
        self.logsnr_min, self.logsnr_max = float(logsnr_min), float(logsnr_max)
        # Truncation remaps t. Clipping log-SNR would leave stretches of t in which nothing happens.
        ends = torch.tensor([logsnr_max, logsnr_min], dtype=torch.float64)
        start, end = self._time(ends).tolist()
        if not (0.0 <= start < end <= 1.0):
            low, high = self._logsnr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
            raise UserError(
                f"{type(self).__name__} reaches log-SNR {low:.4g} to {high:.4g}, not the {logsnr_min} to {logsnr_max} asked for"
            )
        self._start, self._span = start, end - start

    def logsnr(self, t: Tensor) -> Tensor:
        """log-SNR in nats at t in [0, 1]; same shape and dtype as t."""
        return self._logsnr(self._start + self._span * t)

    def dlogsnr_dt(self, t: Tensor) -> Tensor:
        """Derivative of `logsnr` in t, nats; negative everywhere."""
        return self._span * self._dlogsnr_du(self._start + self._span * t)

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


class LinearBeta(NoiseSchedule):
    """beta(u) linear in u: log alpha^2 = -(beta_min u + (beta_max - beta_min) u^2 / 2) on the VP path.

    Ho et al. 2020 in the continuous form of Song et al. 2021, eq. 32; beta per unit of u.
    """

    def __init__(
        self, beta_min: float = 0.1, beta_max: float = 20.0, logsnr_min: float = -10.0, logsnr_max: float = 10.0
    ) -> None:
        if not 0.0 < beta_min < beta_max:
            raise UserError(f"LinearBeta needs 0 < beta_min < beta_max, got {beta_min} and {beta_max}")
        self.beta_min, self.beta_max = beta_min, beta_max
        super().__init__(logsnr_min, logsnr_max)

    def _integral(self, u: Tensor) -> Tensor:
        return u * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * u)

    def _logsnr(self, u: Tensor) -> Tensor:
        return -torch.expm1(self._integral(u)).log()  # log(alpha^2 / (1 - alpha^2)) without forming 1 - alpha^2

    def _dlogsnr_du(self, u: Tensor) -> Tensor:
        beta = self.beta_min + (self.beta_max - self.beta_min) * u
        return beta / torch.expm1(-self._integral(u))  # -beta / sigma^2

    def _time(self, logsnr: Tensor) -> Tensor:
        integral = softplus(
            -logsnr
        )  # -log alpha^2; the positive root of the quadratic, in the form without cancellation
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * integral))


class Cosine(NoiseSchedule):
    """logsnr = -2 log tan(pi u / 2), that is alpha = cos(pi u / 2) on the VP path (Nichol & Dhariwal 2021, offset 0)."""

    def _logsnr(self, u: Tensor) -> Tensor:
        return -2 * torch.tan(0.5 * math.pi * u).log()

    def _dlogsnr_du(self, u: Tensor) -> Tensor:
        return -2 * math.pi / torch.sin(math.pi * u)

    def _time(self, logsnr: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan(torch.exp(-0.5 * logsnr))


class Sigmoid(NoiseSchedule):
    """alpha^2 falls along a stretch of the logistic curve, scaled to run from 1 to 0 (Jabri et al. 2023; Chen 2023).

    alpha^2(u) = (S(z_1) - S(z(u))) / (S(z_1) - S(z_0)), z(u) = (start + (end - start) u) / tau, S the logistic function.
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
    """logsnr = 2 log((1 - u) / u): sigma = u on the linear path (Lipman et al. 2023; Liu et al. 2023)."""

    def _logsnr(self, u: Tensor) -> Tensor:
        return -2 * torch.logit(u)

    def _dlogsnr_du(self, u: Tensor) -> Tensor:
        return -2 / (u * (1 - u))

    def _time(self, logsnr: Tensor) -> Tensor:
        return torch.exp(logsigmoid(-0.5 * logsnr))


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
