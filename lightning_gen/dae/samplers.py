"""Samplers: from noise to data through the levels that a denoiser knows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from lightning_gen.dae.denoisers import Denoiser
from lightning_gen.dae.noises import Noise
from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource


class Visited(NamedTuple):
    """A point of a trajectory: x [B, ...] and the standard deviation of the noise in it."""

    x: Tensor
    sigma: float


class Sampler(ABC):
    """A new sampler defines `walk` and says what it costs.

    A trajectory begins with noise of variance sigma^2 + 1 about 0, sigma the highest level: data in [-1, 1] vary by at
    most 1, and noise that is far above them hides them.

    Args:
        highest, lowest: noise levels between which it goes; None for those of the model.
    """

    def __init__(self, highest: float | None = None, lowest: float | None = None) -> None:
        self.highest, self.lowest = highest, lowest

    @property
    @abstractmethod
    def nfe(self) -> int:
        """Network evaluations a sample costs."""

    @property
    @abstractmethod
    def description(self) -> str:
        """In a few words, for messages."""

    def grid(self, noise: Noise, num: int) -> list[float]:
        """`num` levels to go through, from the highest to the lowest."""
        return noise.within(self.highest, self.lowest).levels(num)

    def check(self, noise: Noise) -> None:
        """Raises UserError where a model trained at that noise cannot be sampled so."""
        noise.within(self.highest, self.lowest)

    @abstractmethod
    def walk(
        self, denoiser: Denoiser, noise: Noise, x: Tensor, y: Tensor | None, rng: RandomSource
    ) -> Iterator[Visited]:
        """The points after the first, x [B, ...] float32."""

    def trajectory(
        self, denoiser: Denoiser, noise: Noise, shape: Sequence[int], y: Tensor | None, rng: RandomSource
    ) -> Iterator[Visited]:
        """From noise to data; the last point is the sample."""
        std = math.hypot(self.grid(noise, 2)[0], 1.0)
        first = Visited(std * rng.normal(shape), std)
        yield first
        yield from self.walk(denoiser, noise, first.x, y, rng)


class NoiseToManifold(Sampler):
    """Denoising in part, again and again: x <- x - h (x - D(x, sigma)), sigma falling as the noise does.

    Over a range of levels, one ratio apart, h = 1 - sigma' / sigma takes x to the next: an Euler step of the probability
    flow. At one level h = 1, and the autoencoder is fed its own output (Bengio et al. 2013 without their noise). With `churn`
    more is taken off, and what is too much is put back as new noise (Kadkhodaie and Simoncelli 2021, algorithm 1, whose
    beta is 1 - churn). The last step takes off all.

    Args:
        steps: how many.
        eta: h at every step but the last, where it is not to be as said.
        churn: in [0, 1).
        highest, lowest: noise levels; None for those of the model.
    """

    def __init__(
        self,
        steps: int = 50,
        eta: float | None = None,
        churn: float = 0.0,
        highest: float | None = None,
        lowest: float | None = None,
    ) -> None:
        super().__init__(highest, lowest)
        if steps < 1:
            raise UserError(f"NoiseToManifold needs at least one step, got {steps}")
        if eta is not None and not 0 < eta < 2:
            raise UserError(f"NoiseToManifold's eta lies between 0 and 2, got {eta}")
        if not 0 <= churn < 1:
            raise UserError(f"NoiseToManifold's churn lies in [0, 1), got {churn}")
        if churn and eta is not None:
            raise UserError("NoiseToManifold's churn says how large its steps are: leave out eta")
        self.steps, self.eta, self.churn = steps, eta, churn

    @property
    def nfe(self) -> int:
        return self.steps

    @property
    def description(self) -> str:
        return f"denoising in {self.steps} steps"

    def walk(
        self, denoiser: Denoiser, noise: Noise, x: Tensor, y: Tensor | None, rng: RandomSource
    ) -> Iterator[Visited]:
        levels = self.grid(noise, self.steps)
        for at, to in zip(levels, levels[1:]):
            share = self._share(at, to)
            x = x - share * (x - denoiser(x, x.new_tensor(at), y))
            if self.churn:
                x = x + math.sqrt(max(0.0, to**2 - ((1 - share) * at) ** 2)) * rng.normal(x.shape, x.dtype)
            yield Visited(x, to)
        yield Visited(denoiser(x, x.new_tensor(levels[-1]), y), 0.0)

    def _share(self, at: float, to: float) -> float:
        if self.eta is not None:
            return self.eta
        return 1.0 if at == to else min(1.0, (1 - to / at) / (1 - self.churn))


class Langevin(Sampler):
    """Langevin dynamics at one level after another: x <- x + h (D(x, sigma) - x) + sqrt(2 h T) sigma z.

    By Tweedie's formula this is a step of h sigma^2 along the score of the data under noise sigma (Song and Ermon 2019,
    algorithm 1). With one level, or a model of one, it is the unadjusted Langevin algorithm, which is stationary at that
    noisy density but for O(h).

    Args:
        levels: of noise, one ratio apart.
        steps: at each level.
        step_size: h, in units of sigma^2.
        temperature: T; 1 samples, 0 climbs, between them samples are of a sharper density.
        denoise: end with D(x): the noise of the last level taken off, for one more evaluation.
        highest, lowest: noise levels; None for those of the model.
    """

    def __init__(
        self,
        levels: int = 20,
        steps: int = 10,
        step_size: float = 0.1,
        temperature: float = 1.0,
        denoise: bool = True,
        highest: float | None = None,
        lowest: float | None = None,
    ) -> None:
        super().__init__(highest, lowest)
        if levels < 1 or steps < 1:
            raise UserError(f"Langevin needs at least one level and one step at each, got {levels} and {steps}")
        if not 0 < step_size < 2:
            raise UserError(f"Langevin's step_size lies between 0 and 2, where the dynamics diverge; got {step_size}")
        if temperature < 0:
            raise UserError(f"Langevin's temperature cannot be negative, got {temperature}")
        self.levels, self.steps, self.step_size = levels, steps, step_size
        self.temperature, self.denoise = temperature, denoise

    @property
    def nfe(self) -> int:
        return self.levels * self.steps + self.denoise

    @property
    def description(self) -> str:
        return f"Langevin dynamics at {self.levels} levels"

    def walk(
        self, denoiser: Denoiser, noise: Noise, x: Tensor, y: Tensor | None, rng: RandomSource
    ) -> Iterator[Visited]:
        jitter = math.sqrt(2 * self.step_size * self.temperature)
        sigma = None
        for level in self.grid(noise, self.levels):
            sigma = x.new_tensor(level)
            for _ in range(self.steps):
                z = rng.normal(x.shape, x.dtype)
                x = x + self.step_size * (denoiser(x, sigma, y) - x) + jitter * level * z
            yield Visited(x, level)
        if self.denoise:
            yield Visited(denoiser(x, sigma, y), 0.0)
