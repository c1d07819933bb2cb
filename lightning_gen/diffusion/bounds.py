"""The variational bound of a Gaussian diffusion: prior + diffusion + reconstruction, in nats per example."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gen.broadcasting import broadcast
from lightning_gen.diffusion.decoders import Decoder, NetworkFree, Reconstruction
from lightning_gen.diffusion.denoisers import Denoiser
from lightning_gen.diffusion.parameterizations import Prediction, posterior_mean
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.diffusion.reverse_variances import FixedSmall, ReverseVariance, smallest
from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.diffusion.variance_models import reverse_kl
from lightning_gen.errors import UserError
from lightning_gen.likelihood import Likelihood, Profile
from lightning_gen.random_source import RandomSource


class LikelihoodEstimator(ABC):
    """A new estimator of a diffusion's likelihood defines `__call__`."""

    def check(self, integers: bool, knows: Collection[str]) -> None:  # noqa: B027  most suit any model
        """Raises UserError where the data, or what a model `knows` of a Prediction, do not suffice."""

    @abstractmethod
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
        """Of x [B, ...] in the data's own domain, `draws` noise draws for each example."""


class VariationalBound(LikelihoodEstimator):
    """log p(x) >= E log p(x | z_0) - KL(q(z_1 | x) || p(z_1)) - L_diffusion (Kingma et al. 2021, eqs. 4, 13, 17).

    Continuous time: L = 1/2 int E_eps |eps - eps_hat|^2 dlogsnr between the schedule's ends. Log-SNR is drawn uniformly
    there, not t: nothing of the schedule's shape is left, models with equal ends share every (log-SNR, noise) pair, and
    no draw outweighs another as those near the ends of a steep schedule would. With T steps:
    L = sum_{i=1..T} 1/2 (exp(logsnr_{(i-1)/T} - logsnr_{i/T}) - 1) E |eps - eps_hat(z_{i/T})|^2, which is larger by O(1/T).
    Each draw is one level per example; the draws of an example are stratified: one falls in each of as many equal parts
    of log-SNR (of the steps), at one offset for all. With `steps=T` and draws = T every step is met exactly once: the
    sum over T is exact and only the noise is sampled. The noise of draw k is the source's fork ("draw", k), whatever the
    number of draws; its level does depend on that number. z_0 is drawn once.

    That sum is of the KL divergences between q(z_s | z_t, x) and p(z_s | z_t) where both have one variance. With another
    reverse variance, or sampled, each is what it is.

    Args:
        steps: T, or None for continuous time.
        variance: of p(z_s | z_t), s = t - 1/T; `FixedSmall`, that of q, by default, and in continuous time the only one.
        reconstruction: what stands for p(x | z_0); the decoder itself by default.
        sampled: take log q(z_s | z_t, x) / p(z_s | z_t) at one z_s ~ q in the place of its mean, the KL divergence: the bound
            as it is for a family without closed forms, and with its variance. Of a chain of steps.
    """

    def __init__(
        self,
        steps: int | None = None,
        variance: ReverseVariance | None = None,
        reconstruction: Reconstruction | None = None,
        sampled: bool = False,
    ) -> None:
        if steps is not None and steps < 1:
            raise UserError(f"the bound needs at least one step, got {steps}")
        self.steps, self.sampled = steps, sampled
        self.variance, self.reconstruction = variance or FixedSmall(), reconstruction or NetworkFree()
        self._simple = type(self.variance) is FixedSmall and not sampled
        if steps is None and not self._simple:
            what = "sampled" if sampled else f"the variance {type(self.variance).__name__}"
            raise UserError(f"in continuous time the bound has no choice of {what}: give it a number of steps")

    def check(self, integers: bool, knows: Collection[str]) -> None:
        self.variance.check(knows)
        self.reconstruction.check(integers, knows)

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
        ends = torch.arange(2, dtype=torch.float64, device=x0.device)
        first, last = (denoiser.path.at(schedule, t) for t in ends)
        z_0 = first.diffuse(x0, rng.normal(x0.shape))
        offset = rng.uniform((len(x0),), dtype=torch.float64)
        diffusion = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
        profile = []
        for k in range(draws):
            at = self._stretch(denoiser, schedule, (k + offset) / draws)
            own = rng.fork("draw", k)
            eps = own.normal(x0.shape)
            x_t = at.level.diffuse(x0.double(), eps).float()
            prediction = denoiser(x_t, at.level.logsnr, y)
            if self._simple:
                density = 0.5 * at.slope * (eps - prediction.eps).flatten(1).double().square().sum(1)
            else:
                density = self._step(x0, prediction, at, own) / at.width
            diffusion += density * at.weight / draws
            profile.append(torch.stack([at.level.logsnr, density, at.weight, at.width]).float())
        terms = {
            "prior": -kl_to_prior(x0, last, denoiser.path.prior_std(last)),
            "diffusion": -diffusion,
            "reconstruction": self.reconstruction.log_prob(decoder, denoiser, x, y, z_0, first),
        }
        kind = "elbo" if decoder.integers else "density-elbo"
        lost = Profile(*torch.stack(profile, -1), ends=(float(schedule.logsnr_min), float(schedule.logsnr_max)))
        return Likelihood.from_terms(terms, kind, x0[0].numel(), lost)

    def _stretch(self, denoiser: Denoiser, schedule: NoiseSchedule, u: Tensor) -> _Stretch:
        """What a draw at u [B] in [0, 1) stands for."""
        if self.steps is None:
            span = schedule.logsnr_max - schedule.logsnr_min
            level = denoiser.path.at(schedule, schedule.time(schedule.logsnr_max - span * u))
            return _Stretch(level, level, torch.ones_like(u), torch.full_like(u, span), torch.zeros_like(u))
        i = (u * self.steps).floor().clamp(max=self.steps - 1)  # rounding may carry u T up to T
        level = denoiser.path.at(schedule, (i + 1) / self.steps)
        to = denoiser.path.at(schedule, i / self.steps)
        width = to.logsnr - level.logsnr
        return _Stretch(level, to, torch.expm1(width) / width, self.steps * width, width)

    def _step(self, x0: Tensor, prediction: Prediction, at: _Stretch, rng: RandomSource) -> Tensor:
        """What the step loses, [B] nats: KL(q(z_s | z_t, x) || p(z_s | z_t)), or one sample of the logarithm in it."""
        pair = at.level, at.to
        variance = self.variance(prediction, *pair).double()
        variance = broadcast(variance, x0) if variance.ndim == 1 else variance
        x0, x0_hat = x0.double(), prediction.x0.double()
        if not self.sampled:
            return reverse_kl(x0, x0_hat, variance, *pair).flatten(1).sum(1)
        least = broadcast(smallest(*pair), x0)
        noise = rng.normal(x0.shape).double()  # z_s = the mean of q + sqrt(least) noise
        apart = broadcast(posterior_mean(*pair)[1], x0) * (x0 - x0_hat) + least.sqrt() * noise
        ratio = (variance / least).log() + apart.square() / variance - noise.square()
        return 0.5 * ratio.flatten(1).sum(1)


class _Stretch(NamedTuple):
    """The log-SNR that a draw stands for, float64 [B] each.

    Attributes:
        level: where the denoiser is asked.
        to: where the step from there goes; the same in continuous time.
        slope: nats lost per unit of log-SNR, over 1/2 |eps - eps_hat|^2.
        weight: 1 / the density of the draw in log-SNR.
        width: log-SNR above the level to which the answer belongs, the step's; 0 in continuous time.
    """

    level: NoiseLevel
    to: NoiseLevel
    slope: Tensor
    weight: Tensor
    width: Tensor


def kl_to_prior(x0: Tensor, last: NoiseLevel, prior_std: Tensor) -> Tensor:
    """KL(N(alpha x0, sigma^2) || N(0, prior_std^2)) per example, [B] nats."""
    mean = (broadcast(last.alpha, x0) * x0.double() / prior_std).flatten(1)
    ratio = (last.sigma / prior_std).double().square()
    return 0.5 * (mean.square() + ratio - 1 - ratio.log()).sum(1)
