"""Maps between shapes, for encoders, decoders and the layers of hierarchies; those that need no picture: MLPs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any, Self

import torch
from torch import Tensor, nn

from lightning_gen.errors import UserError
from lightning_gen.networks.layers import check_condition, fast_layout
from lightning_gen.networks.mlp import ResidualLayer


class Map(nn.Module, ABC):
    """A network from one shape to another: `network(x, cond=None)`. Its last layer is `output`.

    Args:
        in_shape: of an example of the input, (F,) or (C, H, W).
        out_shape: of an example of the output.
        cond_dim: features of the condition; None for a network without one.

    Raises:
        UserError: for a number of channels in the place of `out_shape`, which networks of noisy examples are given.
    """

    output: nn.Linear | nn.Conv2d

    def __new__(
        cls, in_shape: tuple[int, ...] = (), out_shape: tuple[int, ...] = (), *args: Any, **kwargs: Any
    ) -> Self:
        # Before any constructor works with the shapes; copies and pickles come here without them.
        if isinstance(out_shape, int):
            raise UserError(
                f"{cls.__name__} maps a shape to a shape and is not told the noise level: "
                "put lightning_gen.networks.NoiseBlind around it"
            )
        return super().__new__(cls)

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...], cond_dim: int | None = None) -> None:
        super().__init__()
        self.in_shape, self.out_shape, self.cond_dim = tuple(in_shape), tuple(out_shape), cond_dim

    @abstractmethod
    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """x [B, *in_shape], cond [B, cond_dim] or None -> [B, *out_shape] in x's dtype.

        Raises:
            UserError: if a condition is missing, or given to a network that was built without one.
        """

    @torch.no_grad()
    def start_at(self, value: Tensor) -> None:
        """Sets the bias of the last layer so that a new network's output lies around `value` [*out_shape].

        A convolution has one bias a channel: the mean of the channel over its pixels.
        """
        if tuple(value.shape) != self.out_shape:
            raise ValueError(f"the output has shape {self.out_shape}, the value {tuple(value.shape)}")
        self.output.bias.copy_(value.reshape(len(self.output.bias), -1).mean(1))


Network = Callable[[tuple[int, ...], tuple[int, ...], int | None], Map]
"""Makes a map network from (in_shape, out_shape, cond_dim)."""


class Dense(nn.Linear):
    """A linear map of everything an example has, pixels and channels alike, to any shape."""

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
        super().__init__(prod(in_shape), prod(out_shape))
        self.out_shape = tuple(out_shape)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, *in_shape] -> [B, *out_shape]."""
        return super().forward(x.flatten(1)).unflatten(1, self.out_shape)


class PlainMLP(Map):
    """Hidden layers of given widths, each linear, (LayerNorm,) activation; the condition stands beside the input.

    Weights start as Glorot and Bengio (2010) propose, biases at zero: with the defaults the network of Burda et al.
    (2015). Without hidden layers it is linear.

    Args:
        widths: of the hidden layers, from the input to the output; may be empty.
        activation: makes the module after each hidden layer.
        norm: whether a LayerNorm comes before each activation.

    Raises:
        UserError: for widths that are not positive.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        cond_dim: int | None = None,
        widths: Sequence[int] = (200, 200),
        activation: Callable[[], nn.Module] = nn.Tanh,
        norm: bool = False,
    ) -> None:
        super().__init__(in_shape, out_shape, cond_dim)
        check_positive("PlainMLP", widths=[1, *widths])
        fans = [prod(in_shape) + (cond_dim or 0), *widths]
        layers: list[nn.Module] = []
        for fan_in, width in zip(fans, widths):
            layers += [nn.Linear(fan_in, width), *([nn.LayerNorm(width)] if norm else []), activation()]
        self.hidden = nn.Sequential(*layers)
        self.output = Dense((fans[-1],), out_shape)
        for module in (*self.hidden, self.output):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        check_condition(cond, wanted=self.cond_dim is not None)
        features = x.flatten(1)
        if cond is not None:
            features = torch.cat([features, cond], dim=1)
        return self.output(self.hidden(features)).to(x.dtype)


class MLPBlock(PlainMLP):
    """A `PlainMLP` of one width, between any two layers of a hierarchy.

    Args:
        width: of every hidden layer.
        depth: hidden layers; 0 for a linear map.
        activation: makes the module after each hidden layer.
        norm: whether a LayerNorm comes before each activation.

    Raises:
        UserError: for a width that is not positive, or a negative depth.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        cond_dim: int | None = None,
        width: int = 200,
        depth: int = 2,
        activation: Callable[[], nn.Module] = nn.Tanh,
        norm: bool = False,
    ) -> None:
        check_positive("MLPBlock", width=width)
        if depth < 0:
            raise UserError(f"depth of MLPBlock must not be negative, got {depth}")
        super().__init__(in_shape, out_shape, cond_dim, [width] * depth, activation, norm)


class Modulation(nn.Module):
    """Gains and shifts of the norms of several blocks: linear in the condition, or constants where there is none.

    Args:
        features: of the modulation of each block.
        cond_dim: features of the condition, or None.
    """

    def __init__(self, features: Iterable[int], cond_dim: int | None) -> None:
        super().__init__()
        self.features = list(features)
        total = sum(self.features)
        # One matrix for all blocks: a product for each takes longer.
        self.of_condition = None if cond_dim is None else nn.Linear(cond_dim, total, bias=False)
        self.constant = nn.Parameter(torch.zeros(total))

    def forward(self, cond: Tensor | None, batch: int) -> tuple[Tensor, ...]:
        """cond [batch, cond_dim] or None -> [batch, features] for each block.

        Raises:
            UserError: if a condition is missing, or given to a network that was built without one.
        """
        check_condition(cond, wanted=self.of_condition is not None)
        modulation = self.constant.expand(batch, -1)
        if cond is not None:
            modulation = modulation + self.of_condition(cond)
        return modulation.split(self.features, dim=1)


class ModulatedMap(Map):
    """A stem, blocks whose norms the condition modulates (FiLM, Perez et al. 2018), a head and an output layer.

    Args:
        stem: from the input to what the first block takes.
        blocks: each called as block(h, modulation).
        modulated: features of the modulation of each block.
        head: before the output layer, from what the last block gives.
        output: the last layer, called as output(h).
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        cond_dim: int | None,
        *,
        stem: nn.Module,
        blocks: Iterable[nn.Module],
        modulated: Iterable[int],
        head: nn.Module,
        output: nn.Linear | nn.Conv2d,
    ) -> None:
        super().__init__(in_shape, out_shape, cond_dim)
        self.modulation = Modulation(modulated, cond_dim)
        self.stem, self.blocks, self.head, self.output = stem, nn.ModuleList(blocks), head, output

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        modulation = self.modulation(cond, len(x))
        h = self.stem(x)
        if h.ndim == 4:
            h = fast_layout(h)
        for block, m in zip(self.blocks, modulation, strict=True):
            h = block(h, m)
        return self.output(self.head(h)).to(x.dtype)


class ResidualMLP(ModulatedMap):
    """Residual layers of one width, each of which starts as the identity (`ResidualLayer`), between two linear maps.

    Args:
        width: of every layer.
        depth: residual layers, two matrices each.
        dropout: probability, inside every layer.

    Raises:
        UserError: for a width or a depth that is not positive.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        cond_dim: int | None = None,
        width: int = 256,
        depth: int = 2,
        dropout: float = 0.0,
    ) -> None:
        check_positive("ResidualMLP", width=width, depth=depth)
        super().__init__(
            in_shape,
            out_shape,
            cond_dim,
            stem=Dense(in_shape, (width,)),
            blocks=(ResidualLayer(width, dropout) for _ in range(depth)),
            modulated=[2 * width] * depth,
            head=nn.Sequential(nn.LayerNorm(width), nn.SiLU()),
            output=Dense((width,), out_shape),
        )


def check_positive(name: str, **settings: int | Sequence[int]) -> None:
    """
    Raises:
        UserError: where a setting of the network `name` is not positive, or a list of them empty or not all positive.
    """
    for setting, value in settings.items():
        if min([value] if isinstance(value, int) else value, default=0) < 1:
            raise UserError(f"{setting} of {name} must be positive, got {value}")
