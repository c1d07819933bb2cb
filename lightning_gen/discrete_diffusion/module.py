"""The LightningModule that joins a discrete diffusion's parts."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_gen.conditional import Conditional, check_label_dropout
from lightning_gen.discrete_diffusion.bounds import LikelihoodEstimator, VariationalBound
from lightning_gen.discrete_diffusion.encodings import Encoding, OneHot
from lightning_gen.discrete_diffusion.film import film
from lightning_gen.discrete_diffusion.heads import Categorical, Head
from lightning_gen.discrete_diffusion.imputation import Infilling
from lightning_gen.discrete_diffusion.objectives import Bound, Objective
from lightning_gen.discrete_diffusion.predictor import NetworkPredictor
from lightning_gen.discrete_diffusion.processes import Process
from lightning_gen.discrete_diffusion.samplers import Ancestral, Sampler
from lightning_gen.discrete_diffusion.schedules import MutualInformation, Schedule
from lightning_gen.domains import integer_dtype
from lightning_gen.errors import UserError
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import Likelihood
from lightning_gen.networks.factory import made
from lightning_gen.powers import Film, Imputation
from lightning_gen.random_source import RandomSource
from lightning_gen.strata import strata

LEFT_AT_END = 0.1
"""Nats: the most that a component of x_T may still say about x_0."""


class DiscreteDiffusion(Conditional, GenerativeModule, Imputation, Film):
    """Diffusion over levels. D3PM, masked diffusion and any-order autoregression are choices of its axes, not classes.

    Args:
        network: makes the network from (shape, out_channels, cond_dim), where shape has the encoding's features in the place
            of the channels: (C F, H, W), or (F, N) of sequences; called as network(x, logsnr, cond).
        process: what noise is.
        schedule: how fast it comes.
        steps: T of the chain; None for continuous time.
        encoding: of states, for the network.
        head: what the network's output says of x_0.
        objective: what training minimises.
        timeless: tell the network nothing of the noise level, of a process with masks.
        sampler: how samples are drawn by default; 100 ancestral steps, or all that the chain has. An ordered process takes all
            of its steps, a component each; 100 steps draw about D / 100 masks at once, which `AnyOrder` does not.
        bound: how the likelihood is estimated by default.
        imputer: how holes are filled by default.
        conditioner: makes from num_classes what turns y into the network's `cond`; None for an unconditional model.
        label_dropout: share of training examples whose condition is dropped, for classifier-free guidance.

    Raises:
        UserError: where these do not go together.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int | None,
        num_classes: int | None,
        network: Callable[[tuple[int, ...], int, int | None], nn.Module],
        process: Process,
        schedule: Schedule | None = None,
        steps: int | None = None,
        encoding: Encoding | None = None,
        head: Head | None = None,
        objective: Objective | None = None,
        timeless: bool = False,
        sampler: Sampler | None = None,
        bound: LikelihoodEstimator | None = None,
        imputer: Infilling | None = None,
        conditioner: Callable[[int | None], nn.Module] | None = None,
        label_dropout: float = 0.1,
        optimizer: Callable[[Any], Optimizer] = lambda params: AdamW(params, lr=1e-3, weight_decay=0.0, fused=True),
        lr_schedule: Callable[[Optimizer], LRScheduler] | None = None,
        compile: bool = False,
        eval_draws: int = 1,
    ) -> None:
        super().__init__(shape, levels, num_classes, optimizer, lr_schedule, compile, eval_draws)
        if levels is None or levels < 2:
            raise UserError(
                "discrete diffusion needs data with levels, at least two: these are real vectors or constant"
            )
        self.network_factory, self.conditioner_factory = network, conditioner
        # a copy: it takes the data's shape, and may be another model's too
        self.process, self.schedule = copy.deepcopy(process), schedule or MutualInformation()
        self.encoding, self.head, self.timeless = encoding or OneHot(), head or Categorical(), timeless
        self.objective, self.bound = objective or Bound(), bound or VariationalBound()
        self.process.bind(self.shape, levels, self.schedule, steps)
        steps = self.process.steps or 100
        self.sampler = sampler or Ancestral(steps if self.process.deterministic else min(100, steps))
        self.imputer = (imputer or Infilling()).of(self.sampler)
        self.label_dropout = label_dropout
        self.conditioner: nn.Module | None = None
        self.check()

    def check(self) -> None:
        """Refuses, at construction, what has no meaning."""
        check_label_dropout(self.label_dropout)
        if self.timeless and not self.process.masked:
            name = type(self.process).__name__
            raise UserError(f"the noise of {name} cannot be seen in x_t as masks can: leave out timeless")
        self._check_sampler(self.sampler)
        self._check_sampler(self.imputer.sampler)
        self.bound.check(self.process)
        left = self.process.left_at_end()
        if not left <= LEFT_AT_END:  # so is NaN, of rates beyond what floats hold
            raise UserError(
                f"{type(self.process).__name__} with {type(self.schedule).__name__} leaves {left:.2g} of "
                f"{math.log(self.levels):.2g} nats about each component in x_T (at most {LEFT_AT_END:g}): samples start from "
                "independent noise and would lack them. Let alpha fall faster or, where levels are few, choose Uniform"
            )

    def _check_sampler(self, sampler: Sampler) -> None:
        sampler.check(self.process)
        if sampler.guidance is not None:
            sampler.guidance.check(conditional=self.conditional, label_dropout=self.label_dropout)

    def build(self) -> None:
        self.process.build()
        cond_dim = self.build_conditioner()
        features = self.encoding.features(self.levels, self.process.states)
        images = len(self.shape) == 3
        shape = (self.shape[0] * features, *self.shape[1:]) if images else (features, *self.shape)
        channels = (self.shape[0] if images else 1) * self.head.numbers(self.levels)
        self.network = made(self.network_factory, shape, channels, cond_dim)

    def networks(self) -> Iterator[nn.Module]:
        yield self.network

    @property
    def predictor(self) -> NetworkPredictor:
        """The network as a `Predictor`."""
        states = self.levels, self.process.states
        return NetworkPredictor(self.network, self.encoding, self.head, *states, self.conditioner, self.timeless)

    def training_loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Nats of each example, per dimension."""
        draws, x0 = self.draws(x), x.long()
        # All times of the global batch are drawn at once and each rank takes its own: strata do not depend on ranks.
        t = self.process.times(strata(draws.total, draws.shared)[draws.rows])
        x_t = self.process.diffuse(x0, t, draws.own)
        drop = draws.own.uniform((len(x0),)) < self.label_dropout if self.conditioner is not None else None
        log_w = self.predictor(x_t, self.process.logsnr(t), y, drop)
        parts = self.objective(self.process, x0, x_t, log_w, t)
        return {"loss": sum(parts.values()), **(parts if len(parts) > 1 else {})}

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
        estimator.check(self.process)
        rng = rng if rng is not None else self.default_rng(len(x))
        return estimator(self.predictor, self.process, x, self.given(y, len(x)), draws, rng)

    @torch.no_grad()
    def sample(
        self,
        num: int,
        y: Tensor | None = None,
        *,
        sampler: Sampler | None = None,
        rng: RandomSource | None = None,
    ) -> Tensor:
        states = self.trajectory(num, y, sampler=sampler, rng=rng)
        return deque(states, maxlen=1).pop().to(integer_dtype(self.levels))

    @torch.no_grad()
    def trajectory(
        self,
        num: int,
        y: Tensor | None = None,
        *,
        sampler: Sampler | None = None,
        rng: RandomSource | None = None,
    ) -> Iterator[Tensor]:
        """What `sample` passes through: states int64 [num, *shape] from x_T to x_0; a mask is the state `levels`."""
        sampler = sampler or self.sampler
        self._check_sampler(sampler)
        rng = rng if rng is not None else self.default_rng(num)
        y = self.given_or_drawn(y, num, rng)
        yield from sampler.trajectory(self.predictor, self.process, num, self.device, y, rng)

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
        return film(self.trajectory(num, y, sampler=sampler, rng=rng), frames, self.levels)

    @torch.no_grad()
    def impute(
        self,
        x: Tensor,
        mask: Tensor,
        y: Tensor | None = None,
        *,
        imputer: Infilling | None = None,
        rng: RandomSource | None = None,
    ) -> Tensor:
        imputer = (imputer or self.imputer).of(self.sampler)
        self.check_data(x)
        self._check_sampler(imputer.sampler)
        rng = rng if rng is not None else self.default_rng(len(x))
        return imputer(self.predictor, self.process, x, mask, self.given(y, len(x), null=True), rng)
