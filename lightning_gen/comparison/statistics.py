"""How far apart two sets of paired numbers are, and which places of a ranking are ties. Numbers only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

T = TypeVar("T")

LEVEL = 0.95
"""Of every interval."""


@dataclass(frozen=True)
class Estimate:
    """A mean and the half width of its interval, NaN where none is known.

    Attributes:
        mean: in the units of the numbers.
        half: the interval is mean - half to mean + half.
        count: of the numbers it is the mean of.
        over: what they are: "seeds", "examples", or "" where there is no interval.
    """

    mean: float
    half: float = math.nan
    count: int = 0
    over: str = ""

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half

    def holds_zero(self) -> bool:
        """Whether the interval includes 0; an unknown one does not."""
        return abs(self.mean) <= self.half


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the sample's standard deviation (of n - 1), NaN for one value."""
    if not values or not all(map(math.isfinite, values)):  # `fsum` raises on inf - inf
        return sum(values) / len(values) if values else math.nan, math.nan
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else math.nan


def t_interval(values: Sequence[float], over: str = "seeds") -> Estimate:
    """The mean of a few normal values with Student's interval of n - 1 degrees of freedom."""
    mean, sd = mean_and_sd(values)
    quantile = t_quantile(LEVEL, len(values) - 1) if len(values) > 1 else math.nan
    return Estimate(mean, quantile * sd / math.sqrt(len(values)), len(values), over)


def t_quantile(level: float, dof: int) -> float:
    """The t with P(|T| < t) = level, T Student's of `dof` degrees of freedom, to 1e-12 relative for ordinary levels.

    Here and not scipy's, whose import takes longer than a whole table.
    """
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _t_probability(middle, dof) < level else (low, middle)
    return math.sqrt(dof) * math.tan(low)


def _t_probability(angle: float, dof: int) -> float:
    """P(|T| < sqrt(dof) tan(angle)), a finite sum for whole dof (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    odd = dof % 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for k in range(2 + odd, dof + 1, 2):
        total += term
        term *= (k - 1) / k * math.cos(angle) ** 2
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total


def normal_interval(values: Sequence[float], over: str = "examples") -> Estimate:
    """The mean of many values with the normal interval of its standard error."""
    mean, sd = mean_and_sd(values)
    return Estimate(mean, NormalDist().inv_cdf((1 + LEVEL) / 2) * sd / math.sqrt(len(values)), len(values), over)


def ranks(ordered: Sequence[T], tied: Callable[[T, T], bool]) -> list[int]:
    """The ranks of things in their order, from 1: those tied with the leader of a group share its rank (1, 1, 1, 4).

    The first that is not tied with the leader leads the next group. Ties are not transitive: two neighbours may be tied
    with each other, and only the first with their leader.
    """
    found: list[int] = []
    for place, thing in enumerate(ordered):
        leads = not found or not tied(thing, ordered[found[-1] - 1])
        found.append(place + 1 if leads else found[-1])
    return found
