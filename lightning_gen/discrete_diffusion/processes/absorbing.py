"""Masking: a component is replaced by a token that no datum has, and stays so."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gen.categorical import draw_index
from lightning_gen.discrete_diffusion.processes.base import Process
from lightning_gen.discrete_diffusion.schedules import Schedule, logit
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource, RandomSource, derive_seed


class Absorbing(Process):
    """With probability 1 - alpha a component is the mask, the state L (Austin et al. 2021, appendix A.2.2).

    In continuous time this is masked diffusion: the bound is an integral of cross-entropies at masked components with
    weight -alpha' / (1 - alpha) (Shi et al. 2024; Sahoo et al. 2024). What isn't masked is x_0 already,
    whatever the network says there.
    """

    masked = True
    has_limit = True

    @property
    def mask(self) -> int:
        return self.levels

    def log_forward(self, log_w: Tensor, t: Tensor) -> Tensor:
        alpha = self.alpha(t)[..., None]
        lead = torch.broadcast_shapes(log_w.shape[:-1], alpha.shape[:-1])
        log_w = (log_w + alpha.log().to(log_w)).expand(*lead, self.levels)
        return torch.cat([log_w, (1 - alpha).log().to(log_w).expand(*lead, 1)], -1)

    def log_likelihood(self, x_t: Tensor, s: Tensor, t: Tensor, dtype: torch.dtype) -> Tensor:
        kept = self._kept(s, t).expand(x_t.shape)[..., None].to(dtype)
        state, masked = torch.arange(self.states, device=x_t.device), (x_t == self.mask)[..., None]
        into_mask = torch.where(state == self.mask, 0.0, (1 - kept).log())
        elsewhere = torch.where(state == x_t[..., None], kept.log(), -torch.inf)
        return torch.where(masked, into_mask, elsewhere)

    def _kept(self, s: Tensor, t: Tensor) -> Tensor:
        """Probability of what isn't masked at s not to be at t; 0 where nothing is left to be masked."""
        left = self.alpha(s)
        return torch.where(left > 0, self.alpha(t) / left, 0.0)

    def unmasked(self, s: Tensor, t: Tensor) -> Tensor:
        """Probability that a component which is masked at t isn't at s, float64, beside x."""
        masked = 1 - self.alpha(t)
        return torch.where(masked > 0, (self.alpha(s) - self.alpha(t)) / masked, 0.0)

    def diffuse(self, x: Tensor, t: Tensor, rng: RandomSource, s: Tensor | None = None) -> Tensor:
        # float64: beside weights of 1 / t a mask must not come more often than it should
        kept = self.alpha(t) if s is None else self._kept(s, t)
        return torch.where(rng.uniform(x.shape, torch.float64) < 1 - kept, self.mask, x)

    def _masked_nats(self, x0: Tensor, x_t: Tensor, log_w: Tensor) -> Tensor:
        """-log w at x_0 where it is masked, 0 elsewhere."""
        nats = -log_w.gather(-1, x0[..., None]).squeeze(-1)
        return nats.masked_fill(x_t != self.mask, 0.0)

    def kl(self, x0: Tensor, x_t: Tensor, log_w: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return self.unmasked(s, t).to(log_w.dtype) * self._masked_nats(x0, x_t, log_w)

    def cross_entropy(self, x0: Tensor, x_t: Tensor, log_w: Tensor, t: Tensor) -> Tensor:
        return self._masked_nats(x0, x_t, log_w)

    def rate(self, x0: Tensor, x_t: Tensor, log_w: Tensor, t: Tensor) -> Tensor:
        masked = 1 - self.schedule.alpha(t)  # 0 where alpha is 1 to rounding, and nothing is masked
        weight = self._beside(torch.where(masked > 0, -self.schedule.dalpha_dt(t) / masked, 0.0))
        return weight.to(log_w.dtype) * self._masked_nats(x0, x_t, log_w)

    def step(self, x_t: Tensor, log_w: Tensor, s: Tensor, t: Tensor, rng: RandomSource) -> Tensor:
        now = (rng.uniform(x_t.shape, torch.float64) < self.unmasked(s, t)) & (x_t == self.mask)
        return torch.where(now, draw_index(log_w, rng.uniform((*x_t.shape, 1), log_w.dtype), -1), x_t)

    def around(self, x0: Tensor, t: Tensor, rng: RandomSource) -> Tensor:
        """They are never masked: everything that is drawn sees them from the first step."""
        return x0

    def logsnr_of(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise level at which so many are masked on average, within those at which the network was trained."""
        last, first = (self.logsnr(t.new_tensor(at)) for at in (1.0, 1 / self.steps if self.steps else 0.0))
        return logit((x_t != self.mask).flatten(1).double().mean(1)).clamp(last, first)


class OrderedAbsorbing(Absorbing):
    """Masks one component a step, in a fixed order: T = D, and the model is autoregressive (Austin et al. 2021, sec. 4).

    At step i the last i components of the order of generation are masked; x_t is a function of x_0, and the bound's whole
    sum is the chain rule's log-likelihood. The schedule has no say. Samplers of any order are refused: the network was never
    shown a component without all that come before it. Only holes that come after everything known can be filled.

    Args:
        order: seed of the order of generation; None for the order in which the data are stored.
    """

    has_limit = False
    deterministic = True

    def __init__(self, order: int | None = None) -> None:
        super().__init__()
        self.order = order

    def bind(self, shape: tuple[int, ...], levels: int, schedule: Schedule, steps: int | None) -> None:
        dims = torch.Size(shape).numel()
        if steps not in (None, dims):
            raise UserError(f"OrderedAbsorbing masks one of {dims} components a step: leave out steps, or give {dims}")
        super().bind(shape, levels, schedule, dims)
        place = torch.arange(dims)
        if self.order is not None:
            place = GeneratorSource(derive_seed("order", self.order)).uniform((dims,)).argsort()
        self.register_buffer("place", place.reshape(shape), persistent=False)  # in the order of generation

    def alpha(self, t: Tensor) -> Tensor:
        shown = self.steps - (t * self.steps).round()
        return (self.place < self._beside(shown)).double()

    def logsnr(self, t: Tensor) -> Tensor:
        return logit(1 - t)

    def check_known(self, mask: Tensor) -> None:
        ordered = mask.flatten(1)[:, self.place.flatten().argsort()]
        if (ordered[:, 1:] & ~ordered[:, :-1]).any():
            raise UserError(
                "an ordered model draws each component from those before it in its order: it cannot fill a hole from known "
                "components that come after it. Cut holes at the end of the order, or choose a model with process Absorbing"
            )

    def around(self, x0: Tensor, t: Tensor, rng: RandomSource) -> Tensor:
        return self.diffuse(x0, t, rng)
