"""The variational bound of a Gaussian diffusion: prior + diffusion + reconstruction, in nats per example."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gen.diffusion.decoders import Decoder
from lightning_gen.diffusion.denoisers import Denoiser
from lightning_gen.diffusion.paths import NoiseLevel, broadcast
from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.errors import UserError
from lightning_gen.likelihood import Likelihood
from lightning_gen.random_source import RandomSource


class VariationalBound:
    """log p(x) >= E log p(x | z_0) - KL(q(z_1 | x) || p(z_1)) - L_diffusion (Kingma et al. 2021, eqs. 4, 13, 17).

    Continuous time: L = 1/2 int E_eps |eps - eps_hat|^2 dlogsnr between the schedule's ends. Log-SNR is drawn uniformly
    there, not t: nothing of the schedule's shape is left, models with equal ends share every (log-SNR, noise) pair, and
    no draw outweighs another as those near the ends of a steep schedule would. With T steps:
    L = sum_{i=1..T} 1/2 (exp(logsnr_{(i-1)/T} - logsnr_{i/T}) - 1) E |eps - eps_hat(z_{i/T})|^2, which is larger by O(1/T).
    Each draw is one level per example; the draws of an example are stratified. With `steps=T` and draws = T
    every step is met exactly once: the sum over T is exact and only the noise is sampled.

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
        """The bound of x [B, ...], with `draws` times per example; `kind` is `elbo`, or `density-elbo` for vectors."""
        if draws < 1:
            raise UserError(f"the bound needs at least one draw, got {draws}")
        x0 = decoder.encode(x)
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=x0.device)
        first, last = (denoiser.path.at(schedule, t) for t in ends)
        z_0 = first.diffuse(x0, rng.normal(x0.shape))
        offset = rng.uniform((len(x0),), dtype=torch.float64)
        diffusion = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
        for k in range(draws):
            level, weight = self._level(denoiser, schedule, (k + offset) / draws)
            eps = rng.normal(x0.shape)
            x_t = level.diffuse(x0.double(), eps).float()
            error = (eps - denoiser(x_t, level.logsnr, y).eps).flatten(1).double().square().sum(1)
            diffusion += 0.5 * weight * error / draws
        terms = {
            "prior": -_kl_to_prior(x0, last, denoiser.path.prior_std),
            "diffusion": -diffusion,
            "reconstruction": decoder.log_prob(x, z_0, first),
        }
        return Likelihood.from_terms(terms, "elbo" if decoder.integers else "density-elbo", x0[0].numel())

    def _level(self, denoiser: Denoiser, schedule: NoiseSchedule, u: Tensor) -> tuple[NoiseLevel, Tensor | float]:
        """The level at which u in [0, 1) falls, and the weight of its squared error: float64, [B] or a number."""
        if self.steps is None:
            span = schedule.logsnr_max - schedule.logsnr_min
            return denoiser.path.at(schedule, schedule.time(schedule.logsnr_max - span * u)), span
        i = (u * self.steps).floor().clamp(max=self.steps - 1)  # rounding may carry u T up to T
        level = denoiser.path.at(schedule, (i + 1) / self.steps)
        return level, self.steps * torch.expm1(schedule.logsnr(i / self.steps) - level.logsnr)


def _kl_to_prior(x0: Tensor, last: NoiseLevel, prior_std: float) -> Tensor:
    """KL(N(alpha x0, sigma^2) || N(0, prior_std^2)) per example, [B] nats."""
    mean = (broadcast(last.alpha, x0) * x0.double() / prior_std).flatten(1)
    ratio = (last.sigma.double() / prior_std).square()
    return 0.5 * (mean.square() + ratio - 1 - ratio.log()).sum(1)
