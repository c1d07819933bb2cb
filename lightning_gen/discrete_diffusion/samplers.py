"""How a discrete diffusion is sampled: what happens between x_T and x_0."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lightning_gen.categorical import draw_index
from lightning_gen.discrete_diffusion.guidance import Guidance
from lightning_gen.discrete_diffusion.predictor import Conditioned, Predictor
from lightning_gen.discrete_diffusion.processes import Absorbing, Process
from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource


@dataclass(frozen=True)
class Known:
    """What is known of x_0.

    Attributes:
        x0: int64 [B, *shape]; what stands in its holes is a level, but has no influence.
        mask: bool [B, *shape], true where it is known.
        resamplings: how often `Ancestral` walks each stretch of `jump` steps, noise being put back in between.
    """

    x0: Tensor
    mask: Tensor
    resamplings: int = 1
    jump: int = 1

    def put(self, process: Process, x: Tensor, t: Tensor, rng: RandomSource) -> Tensor:
        """x [B, *shape] at t, its known part as the process has it there."""
        return torch.where(self.mask, process.around(self.x0, t, rng), x)


class Sampler(ABC):
    """A new sampler defines `walk` and says what it costs.

    Args:
        guidance: wraps the predictor, or None.
        temperature: of what is drawn at each component: below 1 the probable becomes more so. 1 samples the model.
    """

    def __init__(self, guidance: Guidance | None = None, temperature: float = 1.0) -> None:
        if not 0 < temperature < math.inf:
            raise UserError(f"a sampler's temperature is a positive number, not {temperature}")
        self.guidance, self.temperature = guidance, temperature
        self._evaluated = self._drawn = 0

    @property
    @abstractmethod
    def nfe(self) -> int | None:
        """Network evaluations a sample costs; None where that depends on the data."""

    @property
    def mean_nfe(self) -> float | None:
        """The mean over the samples drawn so far, where `nfe` is None."""
        return self._evaluated / self._drawn if self.nfe is None and self._drawn else None

    def check(self, process: Process) -> None:  # noqa: B027  some suit any process
        """Raises UserError for a process that cannot be sampled so. It has taken its steps already."""

    @abstractmethod
    def walk(
        self, predictor: Conditioned, process: Process, x: Tensor, known: Known | None, rng: RandomSource
    ) -> Iterator[Tensor]:
        """The states after the first, x at t = 1; the last has levels alone."""

    def trajectory(
        self,
        predictor: Predictor,
        process: Process,
        num: int,
        device: torch.device,
        y: Tensor | None,
        rng: RandomSource,
        known: Known | None = None,
    ) -> Iterator[Tensor]:
        """States int64 [num, *shape], from x_T to x_0."""
        x = process.prior(num, device, rng)
        if known is not None:
            x = known.put(process, x, torch.ones(num, dtype=torch.float64, device=device), rng)
        yield x
        wrapped = self.guidance.wrap(predictor) if self.guidance is not None else predictor
        conditioned = Conditioned(wrapped, y, self.temperature)
        yield from self.walk(conditioned, process, x, known, rng)
        self._evaluated += conditioned.evaluations * self._asked * num
        self._drawn += num

    @property
    def _asked(self) -> int:
        """Networks at each evaluation."""
        return 1 if self.guidance is None else self.guidance.evaluations


class Ancestral(Sampler):
    """x_s ~ p(x_s | x_t) on a grid of times; the last goes to t = 0.

    Args:
        steps: of the grid, at most the chain's: fewer jump over some, all components on their own.
        guidance: wraps the predictor, or None.
        temperature: of what is said of x_0.
    """

    def __init__(self, steps: int = 100, guidance: Guidance | None = None, temperature: float = 1.0) -> None:
        super().__init__(guidance, temperature)
        if steps < 1:
            raise UserError(f"a sampler needs at least one step, got {steps}")
        self.steps = steps

    @property
    def nfe(self) -> int:
        return self.steps * self._asked

    def check(self, process: Process) -> None:
        process.grid(self.steps, "cpu")

    def walk(
        self, predictor: Conditioned, process: Process, x: Tensor, known: Known | None, rng: RandomSource
    ) -> Iterator[Tensor]:
        grid = process.grid(self.steps, x.device)
        resamplings, jump = (1, 1) if known is None else (known.resamplings, known.jump)
        for first in range(0, self.steps, jump):
            stretch = grid[first : first + jump + 1]
            for again in range(resamplings):
                if again:
                    x = known.put(process, process.diffuse(x, stretch[0], rng, stretch[-1]), stretch[0], rng)
                for t, s in pairwise(stretch):
                    logsnr = process.logsnr(t).expand(len(x)) if known is None else process.logsnr_of(x, t)
                    x = process.step(x, predictor(x, logsnr), s, t, rng)
                    if known is not None:
                        x = known.put(process, x, s, rng)
                    yield x


class Unmasking(Sampler):
    """Of an absorbing process: a step fills those masks that score highest, as many as are due.

    The noise level that the network is told is that of as many masks. A new such sampler defines `rounds`, `remaining` and
    `scores`.
    """

    def check(self, process: Process) -> None:
        if not isinstance(process, Absorbing):
            raise UserError(
                f"{type(self).__name__} fills masks, and {type(process).__name__} has none: choose Ancestral"
            )
        if process.deterministic:
            raise UserError(
                f"{type(self).__name__} fills masks in any order, and the network of {type(process).__name__} knows one "
                "order alone: choose Ancestral"
            )

    @abstractmethod
    def rounds(self, most: int) -> int:
        """Steps where an example has at most so many masks."""

    @abstractmethod
    def remaining(self, at_first: Tensor, step: int) -> Tensor:
        """How many of the masks [B] that examples had at first are left after a step, the first being 1."""

    @abstractmethod
    def scores(self, log_p: Tensor, step: int, rng: RandomSource) -> Tensor:
        """[B, D] of what a step has drawn for each component, of its log-probabilities [B, D]."""

    def walk(
        self, predictor: Conditioned, process: Process, x: Tensor, known: Known | None, rng: RandomSource
    ) -> Iterator[Tensor]:
        at_first = (x == process.mask).flatten(1).sum(1)
        rounds = self.rounds(int(at_first.max()))
        for step in range(1, rounds + 1):
            masked = (x == process.mask).flatten(1)
            log_w = predictor(x, process.logsnr_of(x, x.new_ones((), dtype=torch.float64)))
            drawn = draw_index(log_w, rng.uniform((*x.shape, 1), log_w.dtype), -1)
            log_p = log_w.gather(-1, drawn[..., None]).squeeze(-1).flatten(1)
            scores = self.scores(log_p, step, rng).masked_fill(~masked, -math.inf)
            left = masked.sum(1)
            # at least one a step; at the end none is left
            keep = torch.minimum(self.remaining(at_first, step), left - 1).clamp(min=0) if step < rounds else 0
            rank = scores.argsort(1, descending=True).argsort(1)
            now = masked & (rank < (left - keep)[:, None])
            x = torch.where(now.reshape(x.shape), drawn, x)
            yield x


class Confidence(Unmasking):
    """The most confident first (MaskGIT, Chang et al. 2022): the score is log p of what was drawn, with Gumbel noise that goes
    down to nothing. After step i the share cos(pi/2 i / steps) is left: few at first, when little is known. No sample of
    the model, but few steps give sharper ones.

    Args:
        steps: rounds.
        noise: of the score at the beginning.
        guidance: wraps the predictor, or None.
        temperature: of what is drawn.
    """

    def __init__(
        self, steps: int = 20, noise: float = 4.5, guidance: Guidance | None = None, temperature: float = 1.0
    ) -> None:
        super().__init__(guidance, temperature)
        if steps < 1 or not 0 <= noise < math.inf:
            raise UserError(f"Confidence needs steps of at least 1 and noise of at least 0, got {steps} and {noise}")
        self.steps, self.noise = steps, noise

    @property
    def nfe(self) -> int:
        return self.steps * self._asked

    def rounds(self, most: int) -> int:
        return self.steps

    def remaining(self, at_first: Tensor, step: int) -> Tensor:
        return (at_first * math.cos(0.5 * math.pi * step / self.steps)).ceil().long()

    def scores(self, log_p: Tensor, step: int, rng: RandomSource) -> Tensor:
        u = rng.uniform(log_p.shape, log_p.dtype).clamp(min=torch.finfo(log_p.dtype).tiny)
        return log_p - self.noise * (1 - step / self.steps) * torch.log(-torch.log(u))


class AnyOrder(Unmasking):
    """Autoregressive in an order that is drawn anew for each sample (Uria et al. 2014; Hoogeboom et al. 2022): each component
    sees all that were drawn before it, which is a sample of the model with as many steps as there are.

    Args:
        at_once: components that a step draws, each on its own.
        guidance: wraps the predictor, or None.
        temperature: of what is drawn.
    """

    def __init__(self, at_once: int = 1, guidance: Guidance | None = None, temperature: float = 1.0) -> None:
        super().__init__(guidance, temperature)
        if at_once < 1:
            raise UserError(f"a step draws at least one component, not {at_once}")
        self.at_once = at_once

    @property
    def nfe(self) -> None:
        return None

    def rounds(self, most: int) -> int:
        return math.ceil(most / self.at_once)

    def remaining(self, at_first: Tensor, step: int) -> Tensor:
        return at_first - self.at_once * step

    def scores(self, log_p: Tensor, step: int, rng: RandomSource) -> Tensor:
        return rng.uniform(log_p.shape, torch.float64)
