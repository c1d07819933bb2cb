"""Schedules given as a table of betas, beta_1 .. beta_T, one a step."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lightning_gen.diffusion.schedules.base import NoiseSchedule
from lightning_gen.diffusion.schedules.inversion import inverse
from lightning_gen.errors import UserError
from lightning_gen.exact_buffers import ExactBuffers


class DiscreteBeta(ExactBuffers, NoiseSchedule):
    """alpha^2 after step i is the product of 1 - beta_j over j <= i, on the VP path (Ho et al. 2020, eq. 4).

    The paper's chain x_0 .. x_T starts without noise, where log-SNR is infinite. Ours starts at its first noised state:
    t = (i - 1) / (T - 1) is x_i, so t = 0 is x_1 and t = 1 is x_T. T - 1 steps of the uniform grid are the paper's
    T - 1 steps x_T -> x_1; its last one, x_1 -> x_0, is the decoder. At these times log-SNR is the table's exactly.
    Between them -log alpha^2, which is smooth where log-SNR bends sharply, is the monotone cubic through the table
    (Fritsch & Carlson 1980): its derivative is continuous and positive.

    A new table defines `betas` and calls `__init__` once its own arguments are set.

    Args:
        steps: T.
        logsnr_min, logsnr_max: the table's own ends by default, which are all that it reaches; where they are narrower t
            is laid anew between them, and no longer on the table's grid.
    """

    def __init__(self, steps: int, logsnr_min: float | None = None, logsnr_max: float | None = None) -> None:
        ExactBuffers.__init__(self)  # before a buffer can be; the ends are pinned below
        if steps < 3:
            raise UserError(f"{type(self).__name__} needs 3 steps or more, got {steps}")
        self.steps = steps
        integral = torch.cumsum(-torch.log1p(-self.betas()), 0)
        self.register_buffer("_table", torch.stack([integral, _slopes(integral)]), persistent=False)
        low, high = self._logsnr(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
        self.logsnr_min, self.logsnr_max = low, high
        if logsnr_min is not None or logsnr_max is not None:
            self._pin(low if logsnr_min is None else logsnr_min, high if logsnr_max is None else logsnr_max)

    @abstractmethod
    def betas(self) -> Tensor:
        """The table, float64 [steps], each in (0, 1)."""

    def _segment(self, k: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """-log alpha^2 at the share s of the way from knot k to the next, and its derivative in s."""
        (start, first), (end, last) = self._table[:, k], self._table[:, k + 1]
        rise = end - start
        square, cube = 3 * rise - 2 * first - last, first + last - 2 * rise
        value = start + s * (first + s * (square + s * cube))
        return value, first + s * (2 * square + s * (3 * cube))

    def _integral(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """-log alpha^2 and its derivative in u, float64."""
        position = u.double() * (self.steps - 1)
        k = position.floor().clamp(0, self.steps - 2).long()
        value, slope = self._segment(k, position - k)
        return value, slope * (self.steps - 1)

    def _logsnr(self, u: Tensor) -> Tensor:
        return -torch.expm1(self._integral(u)[0]).log().to(u.dtype)

    def _dlogsnr_du(self, u: Tensor) -> Tensor:
        value, slope = self._integral(u)
        return (slope / torch.expm1(-value)).to(u.dtype)

    def _time(self, logsnr: Tensor) -> Tensor:
        table = self._table[0]
        value = softplus(-logsnr.double(), threshold=50.0)  # -log alpha^2
        inside = torch.clamp(value, table[0], table[-1])
        k = torch.searchsorted(table[1:-1], inside, right=True)
        s = inverse(lambda s: self._segment(k, s), inside)
        beyond = (value - inside) / (table[-1] - table[0])  # outside [0, 1] what the table does not reach
        return ((k + s) / (self.steps - 1) + beyond).to(logsnr.dtype)


def _slopes(value: Tensor) -> Tensor:
    """Derivatives [T] at the knots of an increasing table [T], per knot, under which the cubic through it increases.

    Central differences, exact for parabolas, kept to at most twice the smaller neighbouring difference; at the ends
    one-sided ones, kept between half and twice the only one.
    """
    rise = value.diff()
    inner = torch.minimum(0.5 * (rise[1:] + rise[:-1]), 2 * torch.minimum(rise[1:], rise[:-1]))
    first, last = (
        torch.clamp(1.5 * own - 0.5 * next, 0.5 * own, 2 * own)
        for own, next in ((rise[0], rise[1]), (rise[-1], rise[-2]))
    )
    return torch.cat([first[None], inner, last[None]])


class DiscreteLinearBeta(DiscreteBeta):
    """DDPM's table: beta_i from beta_min to beta_max in equal steps (Ho et al. 2020). log-SNR -10.1 to 9.21 at the defaults."""

    def __init__(
        self,
        steps: int = 1000,
        beta_min: float = 1e-4,
        beta_max: float = 0.02,
        logsnr_min: float | None = None,
        logsnr_max: float | None = None,
    ) -> None:
        if not 0.0 < beta_min < beta_max < 1.0:
            raise UserError(f"DiscreteLinearBeta needs 0 < beta_min < beta_max < 1, got {beta_min} and {beta_max}")
        self.beta_min, self.beta_max = beta_min, beta_max
        super().__init__(steps, logsnr_min, logsnr_max)

    def betas(self) -> Tensor:
        return torch.linspace(self.beta_min, self.beta_max, self.steps, dtype=torch.float64)


class DiscreteCosine(DiscreteBeta):
    """Improved DDPM's table: alpha^2 proportional to cos^2 after each step (Nichol & Dhariwal 2021, eq. 17).

    beta_i = 1 - f(i) / f(i - 1), f(i) = cos^2(pi/2 (i/T + offset) / (1 + offset)), but at most beta_limit: only the last
    steps are. It ends at very low log-SNR (-22.6 at T = 4000, alpha 1e-5): noise prediction needs logsnr_min above -18.

    Args:
        offset: s, which keeps the first steps from being too small.
        beta_limit: the largest beta.
    """

    def __init__(
        self,
        steps: int = 4000,
        offset: float = 0.008,
        beta_limit: float = 0.999,
        logsnr_min: float | None = None,
        logsnr_max: float | None = None,
    ) -> None:
        if offset < 0.0 or not 0.0 < beta_limit < 1.0:
            raise UserError(f"DiscreteCosine needs offset >= 0 and 0 < beta_limit < 1, got {offset} and {beta_limit}")
        self.offset, self.beta_limit = offset, beta_limit
        super().__init__(steps, logsnr_min, logsnr_max)

    def betas(self) -> Tensor:
        time = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        angle = 0.5 * math.pi * (time + self.offset) / (1 + self.offset)
        alpha2 = torch.cos(angle).square()
        return (1 - alpha2[1:] / alpha2[:-1]).clamp(max=self.beta_limit)
