"""Bijections one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_gen.flow.bijections.base import Bijection, Factory
from lightning_gen.networks.factory import BIJECTION, made


class Chain(Bijection):
    """The composition of bijections, first to last; without any the identity. Log-determinants add up.

    Args:
        layers: factories; each is given the shape that the one before it leaves.
        times: how often the whole sequence is made, each time with parameters of its own.
    """

    def __init__(
        self, shape: tuple[int, ...], cond_dim: int | None = None, layers: Sequence[Factory] = (), times: int = 1
    ) -> None:
        built: list[Bijection] = []
        for make in [*layers] * times:
            at = built[-1].out_shape if built else tuple(shape)
            built.append(made(make, at, cond_dim, key="layer", like=BIJECTION))
        super().__init__(shape, cond_dim, built[-1].out_shape if built else None)
        self.layers = nn.ModuleList(built)
        self.checkpointed: frozenset[int] = frozenset()

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x))
        for i, layer in enumerate(self.layers):
            if i in self.checkpointed and torch.is_grad_enabled():
                x, log_det = checkpoint(layer, x, cond, use_reentrant=False)
            else:
                x, log_det = layer(x, cond)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, cond: Tensor | None = None) -> Tensor:
        for layer in reversed(self.layers):
            z = layer.inverse(z, cond)
        return z

    def initialize(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer.initialize(x, cond)
        return x


def checkpoint_steps(flow: Bijection) -> None:
    """Has the chains within `flow` keep only what stands between steps for the backward pass, and compute the rest anew.

    A step is the largest part of a chain within which there is no chain of chains: all of a step of Glow, say.
    """
    for chain in (module for module in flow.modules() if isinstance(module, Chain)):
        a_step_itself = _depth(chain) == 1 and chain is not flow
        steps = () if a_step_itself else (i for i, layer in enumerate(chain.layers) if _depth(layer) <= 1)
        chain.checkpointed = frozenset(steps)


def _depth(module: nn.Module) -> int:
    """Chains within each other, at most, from here on."""
    below = max((_depth(child) for child in module.children()), default=0)
    return below + isinstance(module, Chain)
