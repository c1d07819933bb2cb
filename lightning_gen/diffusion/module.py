"""GaussianDiffusion: one LightningModule over the six axes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_gen.conditional import Conditional, check_label_dropout
from lightning_gen.diffusion.axes import check_axes, check_guidance, check_sampler
from lightning_gen.diffusion.bounds import LikelihoodEstimator, VariationalBound, kl_to_prior
from lightning_gen.diffusion.decoders import LevelDecoder, VectorDecoder
from lightning_gen.diffusion.denoisers import NetworkDenoiser
from lightning_gen.diffusion.film import film
from lightning_gen.diffusion.imputation import Imputer, Replacement
from lightning_gen.diffusion.parameterizations import Parameterization, VPrediction
from lightning_gen.diffusion.paths import GaussianPath, VariancePreserving
from lightning_gen.diffusion.samplers import DiffusionSampler, Sampler, Visited
from lightning_gen.diffusion.schedules import Cosine, GradientScale, NoiseSchedule
from lightning_gen.diffusion.time_samplers import LowDiscrepancy, TimeSampler
from lightning_gen.diffusion.variance_models import VarianceModel
from lightning_gen.diffusion.weightings import Simple, Weighting
from lightning_gen.errors import NonFiniteSamples
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import Likelihood
from lightning_gen.networks.factory import made
from lightning_gen.powers import Film, Imputation
from lightning_gen.random_source import LossDraws, RandomSource


class GaussianDiffusion(Conditional, GenerativeModule, Imputation, Film):
    """Diffusion with Gaussian noise. DDPM, VDM, flow matching and their kin are choices of its axes, not classes.

    Args:
        network: makes the network from (shape, out_channels, cond_dim); called as network(x, logsnr, cond).
        schedule: how log-SNR falls with t.
        path: the scale that goes with it.
        parameterization: what the network predicts.
        weighting: what the loss weighs.
        time_sampler: where the training times are drawn.
        variance: what the model learns of its own doubt, for reverse variances that are not fixed; None for nothing.
        sampler: how samples are drawn by default.
        bound: how the likelihood is estimated by default.
        conditioner: makes from num_classes what turns y into the network's `cond`; None for an unconditional model.
        label_dropout: share of training examples whose condition is dropped, for classifier-free guidance.

    Raises:
        IncompatibleAxes: where the axes do not go together; `check` says why.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int | None,
        num_classes: int | None,
        network: Callable[[tuple[int, ...], int, int | None], nn.Module],
        schedule: NoiseSchedule | None = None,
        path: GaussianPath | None = None,
        parameterization: Parameterization | None = None,
        weighting: Weighting | None = None,
        time_sampler: TimeSampler | None = None,
        variance: VarianceModel | None = None,
        sampler: Sampler | None = None,
        bound: LikelihoodEstimator | None = None,
        conditioner: Callable[[int | None], nn.Module] | None = None,
        label_dropout: float = 0.1,
        optimizer: Callable[[Any], Optimizer] = lambda params: AdamW(params, lr=1e-3, weight_decay=0.0, fused=True),
        lr_schedule: Callable[[Optimizer], LRScheduler] | None = None,
        compile: bool = False,
        eval_draws: int = 1,
    ) -> None:
        super().__init__(shape, levels, num_classes, optimizer, lr_schedule, compile, eval_draws)
        self.network_factory, self.conditioner_factory = network, conditioner
        self.schedule = schedule or Cosine()
        self.path = path or VariancePreserving()
        self.parameterization = parameterization or VPrediction()
        self.weighting = weighting or Simple()
        self.time_sampler = time_sampler or LowDiscrepancy()
        self.variance = variance
        self.sampler = sampler or DiffusionSampler()
        self.bound = bound or VariationalBound()
        self.imputer: Imputer = Replacement()
        self.label_dropout = label_dropout
        self.conditioner: nn.Module | None = None
        self.decoder = VectorDecoder() if levels is None else LevelDecoder(levels)
        self.check()

    @torch.no_grad()
    def check(self) -> None:
        """Refuses, at construction, what has no meaning."""
        check_axes(
            self.schedule,
            self.path,
            self.parameterization,
            self.weighting,
            self.time_sampler,
            self.variance,
            self.levels,
        )
        check_label_dropout(self.label_dropout)
        self._check_sampler(self.sampler)
        self.bound.check(self.levels is not None, self.knows)

    @property
    def knows(self) -> Collection[str]:
        """The optional fields that this model's predictions have."""
        return () if self.variance is None else (self.variance.gives,)

    def _check_sampler(self, sampler: Sampler) -> None:
        sampler.check(self.schedule, self.knows)
        check_sampler(sampler, self.schedule, self.path, self.levels)
        if sampler.guidance is not None:
            sampler.guidance.check(conditional=self.conditional, label_dropout=self.label_dropout)
            check_guidance(sampler.guidance, self.schedule, self.path)

    def build(self) -> None:
        cond_dim = self.build_conditioner()
        channels = self.shape[0] * (self.variance.multiple if self.variance is not None else 1)
        self.network = made(self.network_factory, self.shape, channels, cond_dim)

    def networks(self):
        yield self.network

    @property
    def denoiser(self) -> NetworkDenoiser:
        """The network as a `Denoiser`."""
        axes = (self.parameterization, self.schedule, self.path)
        return NetworkDenoiser(self.network, *axes, self.conditioner, self.variance)

    def training_loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """The weighted squared error of each example per dimension, in the output's space: without a 2x2 inverse.

        1/2 w (-dlogsnr/dt) / p(t) |eps - eps_hat|^2 = the same / gain^2 |target - output|^2, gain = d output / d eps.
        `loss` is what is minimised; beside it, where the model learns more than its mean, the parts it adds up.
        """
        draws = self.draws(x)
        x0 = self.decoder.encode(x)
        # All times of the global batch are drawn at once and each rank takes its own: strata do not depend on ranks.
        t = self.time_sampler.sample(draws.total, draws.shared, self.schedule)[draws.rows]
        scale = GradientScale()
        level = self.path.at(self.schedule, t, scale)
        eps = draws.own.normal(x0.shape)
        drop = draws.own.uniform((len(x0),)) < self.label_dropout if self.conditioner is not None else None
        x_t = level.diffuse(x0, eps)
        out, rest = self.denoiser.output(x_t, level, y, drop)
        error = (self.parameterization.target(x0, eps, level) - out).square().flatten(1).mean(1)
        gain = self.parameterization.output_gain(level).square()
        density = -self.weighting(level, self.parameterization) * level.dlogsnr_dt / self.time_sampler.density(level)
        losses = 0.5 * density / gain * error
        # A schedule's shape does not change the loss but its variance: that is minimised.
        scale.factor = 2 * losses.detach()
        parts = {"diffusion": self.weighting.objective(losses, level)}
        if rest is not None:
            prediction = self.denoiser.prediction(out.detach(), rest, x_t, level)
            doubts = self.variance.loss(x0, prediction, level) / self.time_sampler.density(level)
            parts["variance"], losses = doubts, losses + doubts
        if self.schedule.learned:
            parts |= self._losses_at_the_ends(x, x0, draws)
        if self.training:
            self.time_sampler.observe(level, losses.detach(), draws.total)
            if self.variance is not None:
                self.variance.observe((error / gain).detach(), level)
        return {"loss": sum(parts.values()), **(parts if len(parts) > 1 else {})}

    def _losses_at_the_ends(self, x: Tensor, x0: Tensor, draws: LossDraws) -> dict[str, Tensor]:
        """The bound's other two terms per dimension, which learned end points must pay for."""
        ends = torch.arange(2, dtype=torch.float64, device=x0.device)
        first, last = (self.path.at(self.schedule, t) for t in ends)
        z_0 = first.diffuse(x0.double(), draws.own.normal(x0.shape))
        nats = {
            "prior": kl_to_prior(x0, last, self.path.prior_std(last)),
            "reconstruction": -self.decoder.log_prob(x, z_0, first),
        }
        return {name: (value / x0[0].numel()).float() for name, value in nats.items()}

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        estimator: LikelihoodEstimator | None = None,
        draws: int = 1,
        rng: RandomSource | None = None,
    ) -> Likelihood:
        self.check_data(x)
        y = self.given(y, len(x))
        rng = rng if rng is not None else self.default_rng(len(x))
        estimator = estimator or self.bound
        estimator.check(self.levels is not None, self.knows)
        return estimator(self.denoiser, self.schedule, self.decoder, x, y, draws, rng)

    @torch.no_grad()
    def sample(
        self,
        num: int,
        y: Tensor | None = None,
        *,
        sampler: Sampler | None = None,
        rng: RandomSource | None = None,
    ) -> Tensor:
        sampler = sampler or self.sampler
        last = deque(self.trajectory(num, y, sampler=sampler, rng=rng), maxlen=1).pop()
        if not torch.isfinite(last.x).all():  # as integers they would be black images
            raise NonFiniteSamples(f"{sampler.description} gave samples that are not finite")
        return self.decoder.decode(last.x, last.level)

    @torch.no_grad()
    def trajectory(
        self,
        num: int,
        y: Tensor | None = None,
        *,
        sampler: Sampler | None = None,
        rng: RandomSource | None = None,
    ) -> Iterator[Visited]:
        """What `sample` passes through, point by point: x [num, *shape] and its level, from noise to data."""
        sampler = sampler or self.sampler
        self._ready(sampler)
        rng = rng if rng is not None else self.default_rng(num)
        # a classifier guides what knows of no classes
        y = self.given_or_drawn(y, num, rng, needed=sampler.guidance is not None)
        yield from sampler.trajectory(self.denoiser, self.schedule, (num, *self.shape), y, rng)

    @torch.no_grad()
    def film(
        self,
        num: int,
        frames: int,
        y: Tensor | None = None,
        *,
        sampler: Sampler | None = None,
        rng: RandomSource | None = None,
    ) -> Tensor:
        return film(self.trajectory(num, y, sampler=sampler, rng=rng), frames, self.decoder)

    @torch.no_grad()
    def impute(
        self,
        x: Tensor,
        mask: Tensor,
        y: Tensor | None = None,
        *,
        imputer: Imputer | None = None,
        rng: RandomSource | None = None,
    ) -> Tensor:
        imputer = imputer or self.imputer
        self.check_data(x)
        self._ready(imputer.sampler)
        y = self.given(y, len(x), null=True, needed=imputer.sampler.guidance is not None)
        check_guidance(imputer, self.schedule, self.path)
        rng = rng if rng is not None else self.default_rng(len(x))
        return imputer(self.denoiser, self.schedule, self.decoder, x, mask, y, rng)

    def _ready(self, sampler: Sampler) -> None:
        """Refuses a guidance that this model cannot be given, its second model included, which is opened only now."""
        self._check_sampler(sampler)
        if sampler.guidance is not None:
            sampler.guidance.check_process(self)
