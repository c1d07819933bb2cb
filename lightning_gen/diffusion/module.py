"""GaussianDiffusion: one LightningModule over the six axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_gen.diffusion.bounds import VariationalBound
from lightning_gen.diffusion.decoders import LevelDecoder, VectorDecoder
from lightning_gen.diffusion.denoisers import NetworkDenoiser
from lightning_gen.diffusion.parameterizations import Parameterization, VPrediction
from lightning_gen.diffusion.paths import GaussianPath, VariancePreserving
from lightning_gen.diffusion.samplers import DiffusionSampler
from lightning_gen.diffusion.schedules import Cosine, NoiseSchedule
from lightning_gen.diffusion.time_samplers import LowDiscrepancy, TimeSampler
from lightning_gen.diffusion.weightings import Simple, Weighting
from lightning_gen.errors import IncompatibleAxes, NonFiniteSamples, UserError
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import Likelihood
from lightning_gen.random_source import RandomSource


class GaussianDiffusion(GenerativeModule):
    """Diffusion with Gaussian noise. DDPM, VDM, flow matching and their kin are choices of its axes, not classes.

    Args:
        network: makes the network from (shape, out_channels, cond_dim); called as network(x, logsnr, cond).
        schedule: how log-SNR falls with t.
        path: the scale that goes with it.
        parameterization: what the network predicts.
        weighting: what the loss weighs.
        time_sampler: where the training times are drawn.
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
        sampler: DiffusionSampler | None = None,
        bound: VariationalBound | None = None,
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
        self.sampler = sampler or DiffusionSampler()
        self.bound = bound or VariationalBound()
        self.label_dropout = label_dropout
        self.conditioner: nn.Module | None = None
        self.decoder = VectorDecoder() if levels is None else LevelDecoder(levels)
        self.check()

    def check(self) -> None:
        """Refuses, at construction, what has no meaning."""
        times = torch.linspace(0, 1, 101, dtype=torch.float64)
        level = self.path.at(self.schedule, times)
        if self.parameterization.singular_at(level):
            raise IncompatibleAxes(
                f"{type(self.parameterization).__name__} cannot be turned into x0 and noise everywhere on "
                f"{type(self.schedule).__name__} with log-SNR from {self.schedule.logsnr_min:g} to "
                f"{self.schedule.logsnr_max:g}: choose another parameterization or narrower ends"
            )
        if not 0.0 <= self.label_dropout < 1.0:
            raise UserError(f"label_dropout lies in [0, 1), got {self.label_dropout}")
        self._check_guidance(self.sampler)

    def _check_guidance(self, sampler: DiffusionSampler) -> None:
        if sampler.guidance is None:
            return
        if self.conditioner_factory is None:
            raise IncompatibleAxes("guidance needs a conditional model: give it a conditioner")
        if self.label_dropout == 0.0:
            raise IncompatibleAxes("classifier-free guidance needs a model trained with label_dropout above 0")

    def build(self) -> None:
        if self.conditioner_factory is not None:
            self.conditioner = self.conditioner_factory(self.num_classes)
        cond_dim = self.conditioner.dim if self.conditioner is not None else None
        self.network = self.network_factory(self.shape, self.shape[0], cond_dim)

    def networks(self):
        yield self.network

    @property
    def denoiser(self) -> NetworkDenoiser:
        """The network as a `Denoiser`."""
        return NetworkDenoiser(self.network, self.parameterization, self.schedule, self.path, self.conditioner)

    def training_loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """The weighted squared error per dimension, in the output's space: no 2x2 inverse in the training step.

        1/2 w (-dlogsnr/dt) / p(t) |eps - eps_hat|^2 = the same / gain^2 |target - output|^2, gain = d output / d eps.
        """
        draws = self.draws(x)
        x0 = self.decoder.encode(x)
        # All times of the global batch are drawn at once and each rank takes its own: strata do not depend on ranks.
        t = self.time_sampler.sample(draws.total, draws.shared)[draws.rows]
        level = self.path.at(self.schedule, t)
        eps = draws.own.normal(x0.shape)
        drop = draws.own.uniform((len(x0),)) < self.label_dropout if self.conditioner is not None else None
        out = self.denoiser.output(level.diffuse(x0, eps), level.logsnr, y, drop)
        error = (self.parameterization.target(x0, eps, level) - out).square().flatten(1).mean(1)
        gain = self.parameterization.output_gain(level).square()
        density = -self.weighting(level, self.parameterization) * level.dlogsnr_dt / self.time_sampler.density(t)
        return {"loss": (0.5 * density / gain * error).mean()}

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        estimator: VariationalBound | None = None,
        draws: int = 1,
        rng: RandomSource | None = None,
    ) -> Likelihood:
        rng = rng if rng is not None else self.default_rng(len(x))
        y = y if self.conditioner is not None else None
        return (estimator or self.bound)(self.denoiser, self.schedule, self.decoder, x, y, draws, rng)

    @torch.no_grad()
    def sample(
        self,
        num: int,
        y: Tensor | None = None,
        *,
        sampler: DiffusionSampler | None = None,
        rng: RandomSource | None = None,
    ) -> Tensor:
        rng = rng if rng is not None else self.default_rng(num)
        if self.conditioner is None:
            y = None
        elif y is None and self.num_classes is not None:
            y = rng.fork("labels").integers(self.num_classes, (num,))
        sampler = sampler or self.sampler
        self._check_guidance(sampler)
        z = sampler.sample(self.denoiser, self.schedule, (num, *self.shape), y, rng)
        if not torch.isfinite(z).all():  # as integers they would be black images
            raise NonFiniteSamples(
                f"{type(sampler.solver).__name__} in {sampler.steps} steps gave samples that are not finite"
            )
        level = self.path.at(self.schedule, torch.zeros((), dtype=torch.float64, device=z.device))
        return self.decoder.decode(z, level)
