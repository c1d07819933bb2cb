"""The LightningModule that joins a flow's parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_gen.conditional import Conditional
from lightning_gen.errors import Diverged, UserError
from lightning_gen.flow.bases import Base, StandardNormal
from lightning_gen.flow.bijections.base import Bijection
from lightning_gen.flow.bijections.chain import checkpoint_steps
from lightning_gen.flow.bijections.elementwise import Logit
from lightning_gen.flow.bounds import ChangeOfVariables, LikelihoodEstimator
from lightning_gen.flow.dequantization import Dequantization, UniformDequantization
from lightning_gen.flow.flow_model import FlowModel
from lightning_gen.flow.layer_watch import LayerWatch
from lightning_gen.flow.samplers import LatentSampler, Sampler
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import Likelihood
from lightning_gen.networks.factory import BIJECTION, made
from lightning_gen.powers import LatentVariables
from lightning_gen.precision import full_float32
from lightning_gen.random_source import GeneratorSource, RandomSource, derive_seed


class NormalizingFlow(Conditional, GenerativeModule, LatentVariables):
    """A normalizing flow; conditional with a conditioner. NICE, RealNVP and Glow are values of `flow`.

    Training runs in the Trainer's precision; what is reported, encoded, decoded and sampled is computed in float32, whatever
    that is: otherwise the map would not be the inverse of its inverse, nor its density normalized.

    Args:
        flow: makes the bijection from (shape, cond_dim).
        base: of the latents; standard normal by default.
        dequantization: of integers; uniform by default. Real vectors have none.
        logit: before the bijection of integers, by its alpha; None, by default: the bijection takes points of the unit cube.
        sampler: how samples are drawn by default.
        bound: how the likelihood is estimated by default.
        conditioner: makes from num_classes what turns y into the layers' `cond`; None for an unconditional model.
        checkpoint_gradients: keep only what stands between steps for the backward pass: less memory, a third more time.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int | None,
        num_classes: int | None,
        flow: Callable[[tuple[int, ...], int | None], Bijection],
        base: Base | None = None,
        dequantization: Dequantization | None = None,
        logit: float | None = None,
        sampler: Sampler | None = None,
        bound: LikelihoodEstimator | None = None,
        conditioner: Callable[[int | None], nn.Module] | None = None,
        checkpoint_gradients: bool = False,
        optimizer: Callable[[Any], Optimizer] = lambda params: AdamW(params, lr=1e-3, weight_decay=0.0, fused=True),
        lr_schedule: Callable[[Optimizer], LRScheduler] | None = None,
        compile: bool = False,
        eval_draws: int = 1,
    ) -> None:
        super().__init__(shape, levels, num_classes, optimizer, lr_schedule, compile, eval_draws)
        self.flow_factory, self.checkpoint_gradients = flow, checkpoint_gradients
        self.base, self.sampler, self.bound = (
            base or StandardNormal(),
            sampler or LatentSampler(),
            bound or ChangeOfVariables(),
        )
        self.dequantization = (dequantization or UniformDequantization()) if levels is not None else dequantization
        self.logit = None if logit is None else Logit(self.shape, alpha=logit)
        self.conditioner_factory, self.conditioner = conditioner, None
        self.check()

    def check(self) -> None:
        """Refuses, at construction, what has no meaning."""
        if self.levels is None and (self.dequantization is not None or self.logit is not None):
            raise UserError(
                "real vectors are neither dequantized nor in the unit cube: leave out dequantization and logit"
            )
        self.bound.check(self.levels is not None)
        if self.compile_networks and self.checkpoint_gradients:
            raise UserError("a compiled flow decides itself what it keeps: leave out compile or checkpoint_gradients")

    def build(self) -> None:
        cond_dim = self.build_conditioner()
        if self.dequantization is not None:
            self.dequantization.bind(self.shape, self.levels, cond_dim)
        self.flow = made(self.flow_factory, self.shape, cond_dim, key="flow", like=BIJECTION)
        self.watch = LayerWatch(self)
        if self.checkpoint_gradients:
            checkpoint_steps(self.flow)

    def networks(self) -> Iterator[nn.Module]:
        yield self.flow

    @property
    def model(self) -> FlowModel:
        """Its parts, without Lightning."""
        return FlowModel(self.flow, self.base, self.dequantization, self.logit)

    @property
    def latents(self) -> int:
        return self.model.latents

    def initialize(self, x: Tensor, y: Tensor | None = None) -> None:
        """Sets the actnorms on one batch, with noise that is the same on every rank."""
        rng = GeneratorSource(derive_seed(self.seed, "initialize"), x.device)
        with torch.no_grad(), full_float32(x.device):
            self.model.initialize(x, self.condition(y), rng)

    def training_loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Nats of each example; the parts are minus the likelihood's terms."""
        self.watch.forget()
        terms = self.model.terms(x, self.condition(y), self.draws(x).own)
        parts = {name: -term for name, term in terms.items()}
        if self.training and self._trainer is not None:
            self.watch.keep(self._trainer.global_step + 1)
        return {"loss": sum(parts.values()), **parts}

    def _report(self, stage: str) -> None:
        # what is measured may be NaN, as with any family: here it is said which layer gave it
        try:
            self.watch.check(self.largest, self.device)
        except Diverged as found:
            rank_zero_warn(str(found))
        super()._report(stage)

    def check_losses(self) -> None:
        self.watch.check(self.largest, self.device)
        super().check_losses()

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
        estimator = estimator or self.bound
        estimator.check(self.levels is not None)
        rng = rng if rng is not None else self.default_rng(len(x))
        self.watch.forget()
        with full_float32(self.device):
            likelihood = estimator(self.model, x, self.condition(self.given(y, len(x))), draws, rng)
        self.watch.keep(self.judged_step if self._trainer is None else self._trainer.global_step)
        if self._trainer is None:
            self.watch.check()
        return likelihood

    @torch.no_grad()
    def sample(
        self,
        num: int,
        y: Tensor | None = None,
        *,
        sampler: Sampler | None = None,
        rng: RandomSource | None = None,
    ) -> Tensor:
        rng = rng if rng is not None else self.default_rng(num)
        y = self.given_or_drawn(y, num, rng)
        with full_float32(self.device):
            return (sampler or self.sampler)(self.model, num, self.condition(y), rng)

    @torch.no_grad()
    def encode(self, x: Tensor, y: Tensor | None = None, *, rng: RandomSource | None = None) -> Tensor:
        """All latents of x, those that were split off too, as one vector."""
        self.check_data(x)
        with full_float32(self.device):
            return self.model.encode(x, self.condition(self.given(y, len(x))), rng)

    @torch.no_grad()
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.model.to_data(self._floats(z, y))

    @torch.no_grad()
    def expected(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """What z decodes to, without rounding."""
        v = self._floats(z, y)
        return v if self.dequantization is None else self.dequantization.expected(v)

    def _floats(self, z: Tensor, y: Tensor | None) -> Tensor:
        with full_float32(self.device):
            return self.model.decode(z, self.condition(self.given(y, len(z))))
