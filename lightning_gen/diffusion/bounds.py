"""The variational bound of a Gaussian diffusion: prior + diffusion + reconstruction, in nats per example."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gen.diffusion.decoders import Decoder
from lightning_gen.diffusion.denoisers import Denoiser
from lightning_gen.diffusion.paths import NoiseLevel, broadcast
from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.errors import UserError
from lightning_gen.likelihood import Likelihood, Profile
from lightning_gen.random_source import RandomSource


class VariationalBound:
    """log p(x) >= E log p(x | z_0) - KL(q(z_1 | x) || p(z_1)) - L_diffusion (Kingma et al. 2021, eqs. 4, 13, 17).

    Continuous time: L = 1/2 int E_eps |eps - eps_hat|^2 dlogsnr between the schedule's ends. Log-SNR is drawn uniformly
    there, not t: nothing of the schedule's shape is left, models with equal ends share every (log-SNR, noise) pair, and
    no draw outweighs another as those near the ends of a steep schedule would. With T steps:
    L = sum_{i=1..T} 1/2 (exp(logsnr_{(i-1)/T} - logsnr_{i/T}) - 1) E |eps - eps_hat(z_{i/T})|^2, which is larger by O(1/T).
    Each draw is one level per example; the draws of an example are stratified: one falls in each of as many equal parts
    of log-SNR (of the steps), at one offset for all. With `steps=T` and draws = T every step is met exactly once: the
    sum over T is exact and only the noise is sampled. The noise of draw k is the source's fork ("draw", k), whatever the
    number of draws; its level does depend on that number. z_0 is drawn once.

    Args:
        steps: T, or None for continuous time.
    """

    def __init__(self, steps: int | None = None) -> None:
        if steps is not None and steps < 1:
            raise UserError(f"the bound needs at least one step, got {steps}")
        self.steps = steps

    def __call__(
        self,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
        decoder: Decoder,
        x: Tensor,
        y: Tensor | None,
        draws: int,
        rng: RandomSource,
    ) -> Likelihood:
        """The bound of x [B, ...] with its profile; `kind` is `elbo`, or `density-elbo` for vectors."""
        if draws < 1:
            raise UserError(f"the bound needs at least one draw, got {draws}")
        x0 = decoder.encode(x)
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=x0.device)
        first, last = (denoiser.path.at(schedule, t) for t in ends)
        z_0 = first.diffuse(x0, rng.normal(x0.shape))
        offset = rng.uniform((len(x0),), dtype=torch.float64)
        diffusion = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
        profile = []
        for k in range(draws):
            at = self._stretch(denoiser, schedule, (k + offset) / draws)
            eps = rng.fork("draw", k).normal(x0.shape)
            x_t = at.level.diffuse(x0.double(), eps).float()
            error = (eps - denoiser(x_t, at.level.logsnr, y).eps).flatten(1).double().square().sum(1)
            density = 0.5 * at.slope * error
            diffusion += density * at.weight / draws
            profile.append(torch.stack([at.level.logsnr, density, at.weight, at.width]).float())
        terms = {
            "prior": -_kl_to_prior(x0, last, denoiser.path.prior_std),
            "diffusion": -diffusion,
            "reconstruction": decoder.log_prob(x, z_0, first),
        }
        kind = "elbo" if decoder.integers else "density-elbo"
        lost = Profile(*torch.stack(profile, -1), ends=(float(schedule.logsnr_min), float(schedule.logsnr_max)))
        return Likelihood.from_terms(terms, kind, x0[0].numel(), lost)

    def _stretch(self, denoiser: Denoiser, schedule: NoiseSchedule, u: Tensor) -> _Stretch:
        """What a draw at u [B] in [0, 1) stands for."""
        if self.steps is None:
            span = schedule.logsnr_max - schedule.logsnr_min
            level = denoiser.path.at(schedule, schedule.time(schedule.logsnr_max - span * u))
            return _Stretch(level, torch.ones_like(u), torch.full_like(u, span), torch.zeros_like(u))
        i = (u * self.steps).floor().clamp(max=self.steps - 1)  # rounding may carry u T up to T
        level = denoiser.path.at(schedule, (i + 1) / self.steps)
        width = schedule.logsnr(i / self.steps) - level.logsnr
        return _Stretch(level, torch.expm1(width) / width, self.steps * width, width)


class _Stretch(NamedTuple):
    """The log-SNR that a draw stands for, float64 [B] each.

    Attributes:
        level: where the denoiser is asked.
        slope: nats lost per unit of log-SNR, over 1/2 |eps - eps_hat|^2.
        weight: 1 / the density of the draw in log-SNR.
        width: log-SNR above the level to which the answer belongs, the step's; 0 in continuous time.
    """

    level: NoiseLevel
    slope: Tensor
    weight: Tensor
    width: Tensor


def _kl_to_prior(x0: Tensor, last: NoiseLevel, prior_std: float) -> Tensor:
    """KL(N(alpha x0, sigma^2) || N(0, prior_std^2)) per example, [B] nats."""
    mean = (broadcast(last.alpha, x0) * x0.double() / prior_std).flatten(1)
    ratio = (last.sigma.double() / prior_std).square()
    return 0.5 * (mean.square() + ratio - 1 - ratio.log()).sum(1)
