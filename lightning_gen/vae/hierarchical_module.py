"""HierarchicalVAE: T learned layers of latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_gen.errors import UserError
from lightning_gen.vae.bounds import LikelihoodEstimator
from lightning_gen.vae.hierarchical_networks import Block, BottomUpInference, NetworkGenerator, NetworkInference
from lightning_gen.vae.hierarchy import Hierarchy
from lightning_gen.vae.module import LatentVariableModule
from lightning_gen.vae.objectives import Objective
from lightning_gen.vae.observations import Observation
from lightning_gen.vae.samplers import Sampler


class HierarchicalVAE(LatentVariableModule):
    """A Markov chain of T layers of latents, inferred bottom-up or top-down.

    Args:
        block: makes the map network between two layers from (in_shape, out_shape, cond_dim, width).
        latent_shapes: of each layer, the one nearest to the data first: a number of dimensions, or a map [C, H, W].
        widths: of the blocks between each layer and what is below it.
        inference: `BottomUpInference` by default, or `TopDownInference`, the ladder.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int | None,
        num_classes: int | None,
        block: Block,
        latent_shapes: list[int | list[int]],
        widths: list[int],
        observation: Observation,
        inference: NetworkInference | None = None,
        objective: Objective | None = None,
        sampler: Sampler | None = None,
        bound: LikelihoodEstimator | None = None,
        conditioner: Callable[[int | None], nn.Module] | None = None,
        optimizer: Callable[[Any], Optimizer] = lambda params: AdamW(params, lr=1e-3, weight_decay=0.0, fused=True),
        lr_schedule: Callable[[Optimizer], LRScheduler] | None = None,
        compile: bool = False,
        eval_draws: int = 1,
    ) -> None:
        super().__init__(
            shape,
            levels,
            num_classes,
            observation,
            objective,
            sampler,
            bound,
            conditioner,
            optimizer,
            lr_schedule,
            compile,
            eval_draws,
        )
        self.latent_shapes = [(each,) if isinstance(each, int) else tuple(each) for each in latent_shapes]
        self.block, self.widths = block, list(widths)
        self.inference = inference or BottomUpInference()
        self.check()

    @property
    def num_layers(self) -> int:
        return len(self.latent_shapes)

    @property
    def splits(self) -> bool:
        return all(self.inference.closed_form(i, self.num_layers) for i in range(1, self.num_layers + 1))

    @property
    def latents(self) -> int:
        return sum(prod(shape) for shape in self.latent_shapes)

    def check(self) -> None:
        if self.num_layers < 2:
            raise UserError(f"latent_shapes has {self.num_layers} layers, a hierarchy at least 2: one layer is a VAE")
        if len(self.widths) != self.num_layers:
            raise UserError(
                f"widths has one for each of the {self.num_layers} layers of latents, not {len(self.widths)}"
            )
        if any(side < 1 for shape in [*self.latent_shapes, self.widths] for side in shape):
            raise UserError(f"latent_shapes and widths are at least 1, got {self.latent_shapes} and {self.widths}")
        super().check()

    def make(self, cond_dim: int | None) -> None:
        self.inference.bind(self.shape, self.latent_shapes, self.widths, self.block, cond_dim)
        out_shape = self.observation.out_shape
        self.generator = NetworkGenerator(self.latent_shapes, self.widths, out_shape, self.block, cond_dim)

    def networks(self) -> Iterator[nn.Module]:
        yield from self.inference.networks()
        yield from self.generator.networks()

    @property
    def model(self) -> Hierarchy:
        return Hierarchy(self.generator, self.inference, self.observation)

    @torch.no_grad()
    def initialize(self, x: Tensor, y: Tensor | None = None) -> None:
        """Starts the last block at the data's own frequencies."""
        self.generator.to_data.start_at(self.observation.initial(x))
