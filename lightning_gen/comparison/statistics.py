"""How far apart two sets of numbers are, and which places of a ranking that leaves open. Numbers only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import TypeVar

T = TypeVar("T")

LEVEL = 0.95
"""Of every interval."""

SEEDS, UNPAIRED, EXAMPLES, NOTHING = "seeds", "seeds, unpaired", "examples", ""
"""What an interval is over."""


@dataclass(frozen=True)
class Estimate:
    """A mean and the half width of its interval, NaN where none is known.

    Attributes:
        mean: in the units of the numbers.
        half: the interval is mean - half to mean + half.
        count: of the numbers it is the mean of.
        over: what they are: `SEEDS`, `UNPAIRED`, `EXAMPLES`, or `NOTHING` where there is no interval.
    """

    mean: float
    half: float = math.nan
    count: int = 0
    over: str = NOTHING

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half

    def holds_zero(self) -> bool:
        """Whether the interval includes 0; an unknown one does not."""
        return abs(self.mean) <= self.half

    def sign(self) -> int:
        """1 or -1 as the whole interval is above or below 0, 0 where it is not; of an unknown one the mean's own."""
        return 0 if self.holds_zero() else (self.mean > 0) - (self.mean < 0)


@dataclass(frozen=True)
class RankRange:
    """The places, from 1, that a model may have: `low` where all that is open falls out for it, `high` against it."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}\N{EN DASH}{self.high}"


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the sample's standard deviation (of n - 1), NaN for one value."""
    if not values or not all(map(math.isfinite, values)):  # `fsum` raises on inf - inf
        return sum(values) / len(values) if values else math.nan, math.nan
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else math.nan


def t_interval(values: Sequence[float]) -> Estimate:
    """The mean of a few normal values with Student's interval of n - 1 degrees of freedom."""
    mean, sd = mean_and_sd(values)
    quantile = t_quantile(LEVEL, len(values) - 1) if len(values) > 1 else math.nan
    return _estimate(mean, quantile * sd / math.sqrt(len(values)), len(values), SEEDS)


def welch_interval(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The mean of a less that of b, two independent sets of two normal values or more, of whatever variances.

    Student's interval of the degrees of freedom by Welch (Biometrika 34, 1947) and Satterthwaite.
    """
    (mean_a, sd_a), (mean_b, sd_b) = mean_and_sd(a), mean_and_sd(b)
    parts = (sd_a**2 / len(a), sd_b**2 / len(b))
    count, variance, half = len(a) + len(b), sum(parts), 0.0
    if variance != 0.0:  # NaN too
        shares = [part / variance for part in parts]
        dof = 1 / (shares[0] ** 2 / (len(a) - 1) + shares[1] ** 2 / (len(b) - 1))
        half = math.nan if math.isnan(dof) else t_quantile(LEVEL, dof) * math.sqrt(variance)
    return _estimate(mean_a - mean_b, half, count, UNPAIRED)


def normal_interval(values: Sequence[float]) -> Estimate:
    """The mean of many values with the normal interval of its standard error."""
    mean, sd = mean_and_sd(values)
    return _estimate(mean, NormalDist().inv_cdf((1 + LEVEL) / 2) * sd / math.sqrt(len(values)), len(values), EXAMPLES)


def _estimate(mean: float, half: float, count: int, over: str) -> Estimate:
    return Estimate(mean, half, count, NOTHING if math.isnan(half) else over)


@cache
def t_quantile(level: float, dof: float) -> float:
    """The t with P(|T| < t) = level, T Student's of `dof` degrees of freedom, to 1e-10 relative up to a thousand of them.

    Here and not scipy's, whose import takes longer than a whole table.
    """
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _t_probability(middle, dof) < level else (low, middle)
    return math.sqrt(dof) * math.tan(low)


def _t_probability(angle: float, dof: float) -> float:
    """P(|T| < sqrt(dof) tan(angle)), the incomplete beta function I_x(1/2, dof/2) at x = sin(angle)^2."""
    x, y = math.sin(angle) ** 2, math.cos(angle) ** 2
    return _beta_series(0.5, dof / 2, x, y) if x < 0.5 else 1 - _beta_series(dof / 2, 0.5, y, x)


def _beta_series(a: float, b: float, x: float, y: float) -> float:
    """I_x(a, b) at y = 1 - x, by the series whose terms are all positive (Abramowitz & Stegun 26.5.4)."""
    if x == 0.0:
        return 0.0
    term, total, n = 1.0, 0.0, 0
    while term > 1e-17 * total:
        total += term
        term *= (a + b + n) / (a + 1 + n) * x
        n += 1
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return total * math.exp(a * math.log(x) + b * math.log(y) - log_beta) / a


def rank_ranges(ordered: Sequence[T], verdict: Callable[[T, T], int]) -> list[RankRange]:
    """For each thing the places that the verdicts on all pairs leave it.

    Its lowest place is behind those that are surely better, its highest before those that are surely worse. A place is
    shared by as many as the verdicts do not tell apart, so a range contradicts no pair of it.

    Args:
        verdict: of two things 1 where the first is surely better, -1 where the second is, 0 where that is open; asked
            once of each pair.
    """
    low, high = [1] * len(ordered), [len(ordered)] * len(ordered)
    for i, one in enumerate(ordered):
        for j in range(i + 1, len(ordered)):
            found = verdict(one, ordered[j])
            if found:
                better, worse = (i, j) if found > 0 else (j, i)
                low[worse] += 1
                high[better] -= 1
    return [RankRange(*places) for places in zip(low, high)]
