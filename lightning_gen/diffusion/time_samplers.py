"""Where the training times are drawn: t and its density p(t). It only changes the variance of the loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.errors import UserError
from lightning_gen.exact_buffers import ExactBuffers
from lightning_gen.over_ranks import sum_over_ranks
from lightning_gen.random_source import RandomSource
from lightning_gen.strata import strata


class TimeSampler(ABC):
    """Draws the times of a whole global batch at once; each rank and micro-batch takes the rows that are its own.

    A new time sampler defines `place` and `density`.

    Args:
        stratified: one time in each of equally probable strata; else independent times.
    """

    uniform: bool = False
    """Whether the density is 1 whatever the schedule, so that a schedule can be learned."""

    follows_losses: bool = False
    """Whether the density moves with what is learned."""

    def __init__(self, stratified: bool = True) -> None:
        self.stratified = stratified

    def sample(self, num: int, rng: RandomSource, schedule: NoiseSchedule) -> Tensor:
        """[num] times in [0, 1], float32, each with density `density`."""
        u = strata(num, rng) if self.stratified else rng.uniform((num,), dtype=torch.float64)
        return self.place(u, schedule).float().clamp_(0.0, 1.0)

    @abstractmethod
    def place(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        """The time below which the share u, float64 [num], of the probability lies."""

    @abstractmethod
    def density(self, level: NoiseLevel) -> Tensor:
        """p(t) at a level, of its shape."""

    def observe(self, level: NoiseLevel, loss: Tensor, total: int) -> None:  # noqa: B027  most take no note
        """Takes note of a micro-batch's losses [B], already divided by p(t), of a global batch of `total`; no gradient."""


class LowDiscrepancy(TimeSampler):
    """Uniform times, stratified."""

    uniform = True

    def __init__(self) -> None:
        super().__init__(stratified=True)

    def place(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        return u

    def density(self, level: NoiseLevel) -> Tensor:
        return torch.ones_like(level.t)


class Uniform(LowDiscrepancy):
    """Independent uniform times."""

    def __init__(self) -> None:
        super().__init__()
        self.stratified = False


class LogNormal(TimeSampler):
    """log(sigma / alpha) normal, cut off at the schedule's ends (Karras et al. 2022, eq. 8): log-SNR ~ N(-2 mean, (2 std)^2).

    Args:
        mean, std: of log(sigma / alpha).
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2, stratified: bool = True) -> None:
        super().__init__(stratified)
        if std <= 0:
            raise UserError(f"LogNormal's std must be positive, got {std}")
        self.mean, self.std = mean, std

    def _ends(self, schedule: NoiseSchedule) -> tuple[float, float]:
        """Probabilities below the noise-to-signal ratio of t = 0 and of t = 1."""
        ends = (-0.5 * logsnr for logsnr in (schedule.logsnr_max, schedule.logsnr_min))
        return tuple(0.5 * math.erfc((self.mean - end) / (self.std * math.sqrt(2))) for end in ends)

    def place(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        low, high = self._ends(schedule)
        ratio = self.mean + self.std * torch.special.ndtri(low + (high - low) * u)
        return schedule.time((-2 * ratio).clamp(schedule.logsnr_min, schedule.logsnr_max))

    def density(self, level: NoiseLevel) -> Tensor:
        low, high = self._ends(level.process[1])
        z = (-0.5 * level.logsnr - self.mean) / self.std
        scale = 2 * self.std * math.sqrt(2 * math.pi) * (high - low)
        return torch.exp(-0.5 * z.square()) / scale * -level.dlogsnr_dt


class LogitNormal(TimeSampler):
    """logit(t) normal (Esser et al. 2024, eq. 19): the middle of the way more often than its ends.

    Its density falls to nothing at both ends, so that 1/p(t) has no finite variance: say that the loss is meant under
    it, `weighting: Simple(space=output, under=LogitNormal())`, as the paper does, and p(t) cancels.

    Args:
        mean, std: of logit(t).
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0, stratified: bool = True) -> None:
        super().__init__(stratified)
        if std <= 0:
            raise UserError(f"LogitNormal's std must be positive, got {std}")
        self.mean, self.std = mean, std

    def place(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        # kept off 0 and 1, where the density is 0 and u = 0 has no quantile
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12))).clamp(
            1e-6, 1 - 1e-6
        )

    def density(self, level: NoiseLevel) -> Tensor:
        t = level.t.double()
        z = (torch.logit(t) - self.mean) / self.std
        density = torch.exp(-0.5 * z.square()) / (self.std * math.sqrt(2 * math.pi) * t * (1 - t))
        return density.to(level.t.dtype)


class LossSecondMoment(ExactBuffers, TimeSampler):
    """p(t) in proportion to the root of the loss's second moment there (Nichol & Dhariwal 2021, eq. 18).

    The moments are running means over equal parts of [0, 1], of all ranks; until every part has `warmup` losses the times
    are uniform. They are part of the state, so that a resumed run draws the times it would have drawn.

    Args:
        parts: of [0, 1].
        warmup: losses a part needs before it counts.
        memory: losses over which a part's mean decays.
        floor: share of the times that stay uniform.
    """

    follows_losses = True

    def __init__(
        self, parts: int = 100, warmup: int = 10, memory: int = 100, floor: float = 0.01, stratified: bool = True
    ) -> None:
        ExactBuffers.__init__(self)
        TimeSampler.__init__(self, stratified)
        if parts < 2 or not 1 <= warmup <= memory or not 0.0 < floor <= 1.0:
            raise UserError("LossSecondMoment needs 2 parts or more, 1 <= warmup <= memory and a floor in (0, 1]")
        self.parts, self.warmup, self.memory, self.floor = parts, warmup, memory, floor
        self.register_buffer("moment", torch.zeros(parts))
        self.register_buffer("seen", torch.zeros(parts))
        self.register_buffer("pending", torch.zeros(2, parts), persistent=False)  # empty between steps

    def _probabilities(self) -> Tensor:
        """Of the parts, float64 [parts]."""
        root = self.moment.double().sqrt()
        learned = root / root.sum().clamp(min=torch.finfo(torch.float64).tiny)
        ready = (self.seen >= self.warmup).all() & (root.sum() > 0)
        share = torch.where(ready, 1.0 - self.floor, 0.0)
        return share * learned + (1 - share) / self.parts

    def place(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        p = self._probabilities()
        upper = p.cumsum(0)
        part = torch.searchsorted(upper, u, right=True).clamp(max=self.parts - 1)
        inside = ((u - (upper - p)[part]) / p[part]).clamp(0, 1)
        return (part + inside) / self.parts

    def density(self, level: NoiseLevel) -> Tensor:
        return (self._probabilities()[self._part(level.t)] * self.parts).to(level.t.dtype)

    def _part(self, t: Tensor) -> Tensor:
        return (t.double() * self.parts).long().clamp(max=self.parts - 1)

    @torch.no_grad()
    def observe(self, level: NoiseLevel, loss: Tensor, total: int) -> None:
        part, square = self._part(level.t), (loss.float() * self.density(level).float()).square()
        sums = torch.zeros_like(self.pending)
        sums[0].index_add_(0, part, torch.ones_like(square))
        sums[1].index_add_(0, part, square)
        self.pending.add_(sum_over_ranks(sums))
        # The density changes between steps alone: the micro-batches of one are drawn from one, however many there are.
        whole = self.pending[0].sum() >= total
        count, square = torch.where(whole, self.pending, 0.0)
        self.seen.add_(count).clamp_(max=self.memory)
        self.moment.add_((square - count * self.moment) / torch.maximum(self.seen, count).clamp(min=1))
        self.pending.mul_(~whole)
