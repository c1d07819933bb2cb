"""At which noise levels an autoencoder is trained: one, or a range of them. sigma is in the units of the floats."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_gen.errors import UserError

_SLACK = 1 + 1e-6
"""Of a level that was printed, or rounded to float32, and is read again."""


class Noise(ABC):
    """A distribution of sigma. A new one gives its quantiles.

    Attributes:
        lowest, highest: between which the model can be asked.
    """

    lowest: float
    highest: float

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """sigma [B] below which a share u [B] in [0, 1) of the draws lies, float32."""

    def levels(self, num: int) -> list[float]:
        """`num` levels from the highest to the lowest, one ratio apart; the highest alone for one, where sampling starts."""
        if num == 1:
            return [self.highest]
        return torch.logspace(
            math.log2(self.highest), math.log2(self.lowest), num, base=2, dtype=torch.float64
        ).tolist()

    def within(self, highest: float | None, lowest: float | None) -> Noise:
        """The levels between two, each None for this one's own end.

        Raises:
            UserError: for what the model was not trained at.
        """
        high = self.highest if highest is None else highest
        low = self.lowest if lowest is None else lowest
        if not self.lowest / _SLACK <= low <= high <= self.highest * _SLACK:
            raise UserError(f"{self._known}: highest {high:g} and lowest {low:g} must lie there, in that order")
        return FixedNoise(low) if low == high else LogUniformNoise(low, high)

    def check(self, sigma: Tensor) -> None:
        """Raises UserError for sigma, [] or [B], at which the model was not trained."""
        outside = ~((sigma >= self.lowest / _SLACK) & (sigma <= self.highest * _SLACK))  # so is NaN
        if outside.any():
            raise UserError(f"{self._known}: sigma {sigma[outside][0].item():g} must lie there")

    @property
    def _known(self) -> str:
        return f"the model knows noise levels from {self.lowest:g} to {self.highest:g}"


class FixedNoise(Noise):
    """One level (Vincent et al. 2008; Alain and Bengio 2014).

    Args:
        sigma: its standard deviation.
    """

    def __init__(self, sigma: float = 0.5) -> None:
        if not 0 < sigma < math.inf:
            raise UserError(f"FixedNoise's sigma must be positive and finite, got {sigma}")
        self.sigma = self.lowest = self.highest = sigma

    def quantile(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.sigma, dtype=torch.float32)


class LogUniformNoise(Noise):
    """log sigma uniform between two levels.

    Args:
        low: the least noise, below which nothing of the data should be lost.
        high: the most, in which all of the data should be lost: some ten times their spread.
    """

    def __init__(self, low: float = 0.02, high: float = 10.0) -> None:
        if not 0 < low < high < math.inf:
            raise UserError(f"LogUniformNoise needs 0 < low < high, got low {low} and high {high}")
        self.low, self.high = self.lowest, self.highest = low, high

    def quantile(self, u: Tensor) -> Tensor:
        return (self.low * (u * math.log(self.high / self.low)).exp()).float()


class LogNormalNoise(Noise):
    """log sigma normal (Karras et al. 2022, table 1). Models are asked within three standard deviations.

    Args:
        mean: of log sigma.
        std: of log sigma.
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2) -> None:
        if std <= 0:
            raise UserError(f"LogNormalNoise's std must be positive, got {std}: for one level take FixedNoise")
        self.mean, self.std = mean, std
        self.lowest, self.highest = math.exp(mean - 3 * std), math.exp(mean + 3 * std)

    def quantile(self, u: Tensor) -> Tensor:
        tiny = torch.finfo(torch.float64).tiny  # u may be 0
        return (self.mean + self.std * torch.special.ndtri(u.double().clamp(min=tiny))).exp().float()
