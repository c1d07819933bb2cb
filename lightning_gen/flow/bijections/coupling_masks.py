"""Which half of an example a coupling changes, and what of the other half its network sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_gen.errors import UserError


class Mask(nn.Module, ABC):
    """Parts an example of `shape` into what stays, `given`, and what changes, `active`.

    Args:
        shape: of an example.
        flip: change the other half.

    Attributes:
        given_shape: of what the network sees.
        active_shape: of what changes.
    """

    given_shape: tuple[int, ...]
    active_shape: tuple[int, ...]

    def __init__(self, shape: tuple[int, ...], flip: bool = False) -> None:
        super().__init__()
        self.shape, self.flip = tuple(shape), flip

    @abstractmethod
    def network_shape(self, features: int) -> tuple[int, ...]:
        """Of the network's output, for so many numbers for each active one."""

    @abstractmethod
    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, *shape] -> what the network sees [B, *given_shape], what changes [B, *active_shape]."""

    @abstractmethod
    def parameters_of(self, out: Tensor, features: int) -> Tensor:
        """The network's output [B, *network_shape] -> [B, features, *active_shape]."""

    @abstractmethod
    def merge(self, x: Tensor, active: Tensor) -> Tensor:
        """x with its active part replaced."""


class _AlongChannels(Mask):
    """Parts along dimension 1; the network sees the given part alone."""

    def __init__(self, shape: tuple[int, ...], flip: bool = False) -> None:
        super().__init__(shape, flip)
        if shape[0] < 2:
            raise UserError(
                f"{type(self).__name__} needs two channels or more to part, the data have shape {tuple(shape)}: "
                "choose CheckerboardMask, or for vectors a model of another family"
            )

    def network_shape(self, features: int) -> tuple[int, ...]:
        return (features * self.active_shape[0], *self.active_shape[1:])

    def parameters_of(self, out: Tensor, features: int) -> Tensor:
        return out.unflatten(1, (features, self.active_shape[0]))


class ChannelMask(_AlongChannels):
    """The second half of the channels changes (the larger one, where they are odd), or with `flip` the first."""

    def __init__(self, shape: tuple[int, ...], flip: bool = False) -> None:
        super().__init__(shape, flip)
        first, rest = shape[0] // 2, tuple(shape[1:])
        self.sizes = [first, shape[0] - first]
        given, active = self.sizes[::-1] if flip else self.sizes
        self.given_shape, self.active_shape = (given, *rest), (active, *rest)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.split(self.sizes, 1)
        return (second, first) if self.flip else (first, second)

    def merge(self, x: Tensor, active: Tensor) -> Tensor:
        given, _ = self.split(x)
        return torch.cat([active, given] if self.flip else [given, active], 1)


class VectorMask(_AlongChannels):
    """Every second component changes: those at odd places, or with `flip` at even ones (Dinh et al. 2015, sec. 5.1)."""

    def __init__(self, shape: tuple[int, ...], flip: bool = False) -> None:
        super().__init__(shape, flip)
        even, odd = (shape[0] + 1) // 2, shape[0] // 2
        given, active = (odd, even) if flip else (even, odd)
        self.given_shape, self.active_shape = (given, *shape[1:]), (active, *shape[1:])

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        even, odd = x[:, 0::2], x[:, 1::2]
        return (odd, even) if self.flip else (even, odd)

    def merge(self, x: Tensor, active: Tensor) -> Tensor:
        merged = x.clone()
        merged[:, 0 if self.flip else 1 :: 2] = active
        return merged


class CheckerboardMask(Mask):
    """Pixels where row + column is odd change, in all channels; with `flip` those where it is even (Dinh et al. 2017).

    The network sees the whole picture with zeros in the place of what changes, and the board as a channel more: a zero
    pixel and one that is hidden are told apart.
    """

    def __init__(self, shape: tuple[int, ...], flip: bool = False) -> None:
        super().__init__(shape, flip)
        if len(shape) != 3 or shape[1] * shape[2] < 2:
            raise UserError(
                f"CheckerboardMask is for images (C, H, W) of two pixels or more, not for shape {tuple(shape)}: choose "
                "fewer levels, or VectorMask for vectors"
            )
        channels, height, width = shape
        # on the CPU: under a meta device `nonzero` has no answer
        odd = (torch.arange(height, device="cpu")[:, None] + torch.arange(width, device="cpu")) % 2 == 1
        changes = ~odd if flip else odd
        self.register_buffer("places", changes.flatten().nonzero()[:, 0], persistent=False)
        self.register_buffer("stays", (~changes).float(), persistent=False)
        self.given_shape, self.active_shape = (channels + 1, height, width), (channels, len(self.places))

    def network_shape(self, features: int) -> tuple[int, ...]:
        return (features * self.shape[0], *self.shape[1:])

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        stays = self.stays.to(x.dtype)
        board = stays.expand(len(x), 1, *self.shape[1:])
        return torch.cat([x * stays, board], 1), x.flatten(2).index_select(2, self.places)

    def parameters_of(self, out: Tensor, features: int) -> Tensor:
        return out.flatten(2).index_select(2, self.places).unflatten(1, (features, self.shape[0]))

    def merge(self, x: Tensor, active: Tensor) -> Tensor:
        return x.flatten(2).index_copy(2, self.places, active).reshape(x.shape)


MaskFactory = Callable[[tuple[int, ...], bool], Mask]
"""Makes a mask from (shape, flip)."""
