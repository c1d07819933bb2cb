"""A forward process that noises each component on its own, and Bayes' rule for its way back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_gen.categorical import draw_index
from lightning_gen.discrete_diffusion.schedules import Schedule
from lightning_gen.errors import UserError
from lightning_gen.exact_buffers import ExactBuffers
from lightning_gen.random_source import RandomSource


class Process(ExactBuffers, ABC):
    """q(x_t | x_0) over levels {0..L-1} (and a mask, where it has one), components being independent.

    Q_t|s denotes the transition matrix from time s to t, Q_t = Q_t|0. Of x_0 a model says at each component w, a distribution
    over levels; the way back is then, as in D3PM (Austin et al. 2021, eq. 4),

        p(x_s = k | x_t) ~ Q_t|s[k, x_t] (w Q_s)[k],    s < t,

    at every pair of times, s = 0 included: p(x_0 | x_t) ~ w Q_t[:, x_t], so that w is what the *other* components say of
    this one, and what it says of itself comes in by Bayes' rule. The way back composes: it is the mixture of the posteriors
    q(x_s | x_t, x_0) over that p(x_0 | x_t).

    Times are float64, [] or [B], in [0, 1]; in a chain multiples of 1/T. A new process defines `log_forward`,
    `log_likelihood` and `diffuse`; closed forms may take the place of `kl` and `step`.
    """

    masked: bool = False
    """Whether there is a further state, L, the mask."""

    has_limit: bool = False
    """Whether the bound has a limit in continuous time here, `rate`."""

    deterministic: bool = False
    """Whether x_t is a function of x_0, one component being masked a step in one order: the whole sum of the bound is then the
    log-likelihood itself, and the network knows no other order."""

    def bind(self, shape: tuple[int, ...], levels: int, schedule: Schedule, steps: int | None) -> None:
        """Takes the data's shape and levels, how alpha falls, and T; None for continuous time.

        Raises:
            UserError: it has no continuous time, or not so many steps.
        """
        if steps is None and not self.has_limit:
            raise UserError(f"{type(self).__name__} has no limit in continuous time here: give steps")
        if steps is not None and steps < 1:
            raise UserError(f"a chain has at least one step, got {steps}")
        self.shape, self.levels, self.schedule, self.steps = tuple(shape), levels, schedule, steps

    def build(self) -> None:
        """Makes what tables it has, after `bind` and once."""

    @property
    def states(self) -> int:
        """S: the levels, and the mask."""
        return self.levels + self.masked

    @property
    def num_dims(self) -> int:
        """D, components of an example."""
        return math.prod(self.shape)

    # ---- times ----------------------------------------------------------------------------------------------------

    def times(self, u: Tensor) -> Tensor:
        """t of u in [0, 1), uniform over (0, 1] or the steps of the chain."""
        if self.steps is None:
            return (1 - u).clamp(min=torch.finfo(u.dtype).eps)  # rounding may carry u up to 1
        return ((u * self.steps).floor().clamp(max=self.steps - 1) + 1) / self.steps  # rounding may carry u T up to T

    def grid(self, steps: int, device: torch.device | str) -> Tensor:
        """steps + 1 times from 1 to 0, equally spaced or as nearly as the chain's own allow.

        Raises:
            UserError: more steps than the chain has.
        """
        grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=device)
        if self.steps is None:
            return grid
        if steps > self.steps:
            raise UserError(f"a chain of {self.steps} steps cannot be sampled in {steps}: give the sampler fewer steps")
        return (grid * self.steps).round() / self.steps

    def alpha(self, t: Tensor) -> Tensor:
        """The share that is left at t, float64; a shape that broadcasts with x, [B, *shape]."""
        return self._beside(self.schedule.alpha(t))

    def logsnr(self, t: Tensor) -> Tensor:
        """What the network is told of t, float32, nats."""
        return self.schedule.logsnr(t)

    def logsnr_of(self, x_t: Tensor, t: Tensor) -> Tensor:
        """[B]: the same where part of x_t is known, which at t may leave less noise than there would be."""
        return self.logsnr(t).expand(len(x_t))

    def _beside(self, value: Tensor) -> Tensor:
        """A number of each example, [] or [B], with trailing ones beside x [B, *shape]."""
        return value.reshape(*value.shape, *[1] * len(self.shape)) if value.ndim else value

    # ---- what a process defines ------------------------------------------------------------------------------------

    @abstractmethod
    def log_forward(self, log_w: Tensor, t: Tensor) -> Tensor:
        """log (w Q_t), [B, *shape, S], of log w [B, *shape, L]: how x_t is distributed when x_0 is as w."""

    @abstractmethod
    def log_likelihood(self, x_t: Tensor, s: Tensor, t: Tensor, dtype: torch.dtype) -> Tensor:
        """log Q_t|s[k, x_t], [B, *shape, S] over the states k at s, of x_t int64 [B, *shape]."""

    @abstractmethod
    def diffuse(self, x: Tensor, t: Tensor, rng: RandomSource, s: Tensor | None = None) -> Tensor:
        """x_t ~ q(x_t | x_s), int64 of x_s's shape [B, *shape]; x is x_0 where s is None."""

    # ---- the way back ----------------------------------------------------------------------------------------------

    def log_reverse(self, x_t: Tensor, log_w: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """log p(x_s | x_t), [B, *shape, S], in log_w's dtype."""
        return log_normalized(self.log_forward(log_w, s) + self.log_likelihood(x_t, s, t, log_w.dtype))

    def log_x0(self, x_t: Tensor, log_w: Tensor, t: Tensor) -> Tensor:
        """log p(x_0 | x_t), [B, *shape, L]."""
        return self.log_reverse(x_t, log_w, torch.zeros_like(t), t)[..., : self.levels]

    def log_posterior(self, x_t: Tensor, x0: Tensor, s: Tensor, t: Tensor, dtype: torch.dtype) -> Tensor:
        """log q(x_s | x_t, x_0), [B, *shape, S]: the way back where w is one-hot."""
        return log_normalized(self.log_spread(x0, s, dtype) + self.log_likelihood(x_t, s, t, dtype))

    def kl(self, x0: Tensor, x_t: Tensor, log_w: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) of every component, [B, *shape] nats; at s = 0 it is -log p(x_0 | x_t)."""
        return self._kl(x0, log_w, s, self.log_likelihood(x_t, s, t, log_w.dtype))

    def _kl(self, x0: Tensor, log_w: Tensor, s: Tensor, log_likelihood: Tensor) -> Tensor:
        spread = self.log_spread(x0, s, log_w.dtype), self.log_forward(log_w, s)
        return mean_log_ratio(*(log_normalized(each + log_likelihood) for each in spread))

    def log_spread(self, x0: Tensor, t: Tensor, dtype: torch.dtype) -> Tensor:
        """log q(x_t | x_0), [B, *shape, S]: `log_forward` where w is one-hot."""
        return self.log_forward(one_hot(x0, self.levels).to(dtype).log(), t)

    def cross_entropy(self, x0: Tensor, x_t: Tensor, log_w: Tensor, t: Tensor) -> Tensor:
        """-log p(x_0 | x_t) of every component, [B, *shape] nats."""
        return self.kl(x0, x_t, log_w, torch.zeros_like(t), t)

    def rate(self, x0: Tensor, x_t: Tensor, log_w: Tensor, t: Tensor) -> Tensor:
        """The limit of T KL(...) as T grows, [B, *shape] nats, where `has_limit`."""
        raise NotImplementedError

    def nats(self, x0: Tensor, x_t: Tensor, log_w: Tensor, t: Tensor) -> Tensor:
        """Of every component, [B, *shape]: its mean over `times` is the sum of the chain, or the integral."""
        if self.steps is None:
            return self.rate(x0, x_t, log_w, t)
        return self.steps * self.kl(x0, x_t, log_w, t - 1 / self.steps, t)

    def step(self, x_t: Tensor, log_w: Tensor, s: Tensor, t: Tensor, rng: RandomSource) -> Tensor:
        """x_s ~ p(x_s | x_t), int64 [B, *shape]."""
        log_p = self.log_reverse(x_t, log_w, s, t)
        return draw_index(log_p, rng.uniform((*x_t.shape, 1), log_p.dtype), -1)

    # ---- the far end -----------------------------------------------------------------------------------------------

    def log_prior(self, device: torch.device | str = "cpu") -> Tensor:
        """log p(x_T), float64, what broadcasts to [*shape, S]: where x_0 of equally probable levels comes to at t = 1."""
        uniform = torch.full((1, self.levels), -math.log(self.levels), dtype=torch.float64, device=device)
        return self.log_forward(self._anywhere(uniform), uniform.new_ones(1))[0]

    def prior(self, num: int, device: torch.device | str, rng: RandomSource) -> Tensor:
        """x_T ~ p(x_T), int64 [num, *shape]."""
        x0 = rng.integers(self.levels, (num, *self.shape))
        return self.diffuse(x0, torch.ones(num, dtype=torch.float64, device=device), rng)

    def kl_to_prior(self, x0: Tensor) -> Tensor:
        """KL(q(x_T | x_0) || p(x_T)) per example, [B] nats, float64."""
        # of each level once: it depends on nothing else of x_0, but for some processes on the place
        each = torch.eye(self.levels, dtype=torch.float64, device=x0.device).log()
        log_q = self.log_forward(self._anywhere(each), each.new_ones(()))
        kl = mean_log_ratio(log_q, self.log_prior(x0.device))
        return kl.expand(self.levels, *self.shape).gather(0, x0).flatten(1).sum(1)

    def _anywhere(self, w: Tensor) -> Tensor:
        """[B, K] at any component: [B, 1, .., 1, K]."""
        return w.reshape(len(w), *[1] * len(self.shape), w.shape[-1])

    def left_at_end(self) -> float:
        """KL(q(x_T | x_0) || p(x_T)) of a component, nats: how much x_T, where sampling starts, still says about x_0.

        The larger of two: x_0 is the first level, or the last; no level of the processes here is forgotten later.
        """
        ends = one_hot(torch.tensor([0, self.levels - 1]), self.levels).double().log()
        log_q = self.log_forward(self._anywhere(ends), ends.new_ones(()))
        return mean_log_ratio(log_q, self.log_prior()).max().item()

    def check_known(self, mask: Tensor) -> None:
        """Raises UserError where the model cannot be shown the known components, where mask [B, *shape] is true."""

    def around(self, x0: Tensor, t: Tensor, rng: RandomSource) -> Tensor:
        """Components that are known to be x0, as they stand at t while the others are sampled."""
        return self.diffuse(x0, t, rng)


def log_normalized(joint: Tensor) -> Tensor:
    """Log-probabilities over the last dimension, of logarithms that may be -inf, but not all."""
    return joint - joint.logsumexp(-1, keepdim=True)


def mean_log_ratio(log_q: Tensor, log_p: Tensor) -> Tensor:
    """sum_k q_k (log q_k - log p_k) over the last dimension, states of no probability left out."""
    q = log_q.exp()
    return (q * (log_q - log_p).masked_fill(q == 0, 0.0)).sum(-1)
