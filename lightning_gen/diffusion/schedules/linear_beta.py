"""beta(u) linear in u, the continuous form of Ho et al. 2020 (Song et al. 2021, eq. 32), on the VP and sub-VP paths."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lightning_gen.diffusion.schedules.base import NoiseSchedule
from lightning_gen.errors import UserError


class _Linear(NoiseSchedule):
    """The integral I of beta = beta_min + (beta_max - beta_min) u, beta per unit of u."""

    def __init__(
        self, beta_min: float = 0.1, beta_max: float = 20.0, logsnr_min: float = -10.0, logsnr_max: float = 10.0
    ) -> None:
        if not 0.0 < beta_min < beta_max:
            raise UserError(f"{type(self).__name__} needs 0 < beta_min < beta_max, got {beta_min} and {beta_max}")
        self.beta_min, self.beta_max = beta_min, beta_max
        super().__init__(logsnr_min, logsnr_max)

    def _beta(self, u: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * u

    def _integral(self, u: Tensor) -> Tensor:
        return u * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * u)

    def _time_of(self, integral: Tensor) -> Tensor:
        """The positive root of the quadratic, in the form without cancellation."""
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * integral))


class LinearBeta(_Linear):
    """log alpha^2 = -I(u) on the VP path. Reaches -log(e^I(1) - 1), -10.05 at the defaults, to infinity."""

    def _logsnr(self, u: Tensor) -> Tensor:
        return -torch.expm1(self._integral(u)).log()  # log(alpha^2 / (1 - alpha^2)) without forming 1 - alpha^2

    def _dlogsnr_du(self, u: Tensor) -> Tensor:
        return self._beta(u) / torch.expm1(-self._integral(u))  # -beta / sigma^2

    def _time(self, logsnr: Tensor) -> Tensor:
        return self._time_of(softplus(-logsnr))


class SubVPLinearBeta(_Linear):
    """The sub-VP SDE: alpha = e^(-I/2), sigma = 1 - e^-I (Song et al. 2021, eq. 29), so alpha / sigma = 1 / (2 sinh(I/2)).

    Its scale is the sub-VP path's. Reaches -2 log(2 sinh(I(1) / 2)), -10.05 at the defaults, to infinity.
    """

    def _logsnr(self, u: Tensor) -> Tensor:
        return -2 * (2 * torch.sinh(0.5 * self._integral(u))).log()

    def _dlogsnr_du(self, u: Tensor) -> Tensor:
        return -self._beta(u) / torch.tanh(0.5 * self._integral(u))

    def _time(self, logsnr: Tensor) -> Tensor:
        return self._time_of(2 * torch.asinh(0.5 * torch.exp(-0.5 * logsnr)))
