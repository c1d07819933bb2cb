"""What is missing of examples, and how a model fills it, as tensors. No Lightning, no files."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.evaluation.progress import Advance
from lightning_gen.powers import NOTHING, Imputation
from lightning_gen.random_source import IndexedSource, RandomSource, StackedSource


class Mask(ABC):
    """Which places of examples are missing: pixels of images [C, H, W], with all their channels, or steps of sequences [N].

    A new mask defines `missing`.
    """

    @abstractmethod
    def missing(self, num: int, sides: tuple[int, ...], rng: RandomSource) -> Tensor:
        """bool, [num, *sides] or [*sides] where it is the same for all; `sides` are (H, W) or (N,)."""

    def known(self, num: int, shape: tuple[int, ...], rng: RandomSource) -> Tensor:
        """bool [num, *shape], true where data of that shape are known.

        Raises:
            UserError: data that are neither images nor sequences, or of which nothing is missing.
        """
        shape = tuple(shape)
        if len(shape) not in (1, 3):
            raise UserError(f"holes are cut into images (C, H, W) and sequences (N,), not into data of shape {shape}")
        missing = self.missing(num, shape[-2:], rng)
        if not missing.any():
            name = type(self).__name__
            raise UserError(
                f"{name} leaves nothing of data of shape {shape} missing: choose another mask, or a larger share"
            )
        return ~(missing if len(shape) == 1 else missing.unsqueeze(-3)).expand(num, *shape)


class Half(Mask):
    """The last or the first half along one axis, 0 from top to bottom and 1 from left to right; an odd middle is known."""

    def __init__(self, axis: int, last: bool) -> None:
        if axis not in (0, 1):
            raise UserError(f"Half's axis is 0, from top to bottom, or 1, from left to right, not {axis}")
        self.axis, self.last = axis, last

    def missing(self, num: int, sides: tuple[int, ...], rng: RandomSource) -> Tensor:
        axis = min(self.axis, len(sides) - 1)  # a sequence has one
        place = torch.arange(sides[axis])
        gone = (place.flip(0) if self.last else place) < sides[axis] // 2
        return gone.reshape([-1 if i == axis else 1 for i in range(len(sides))]).expand(sides)


class LowerHalf(Half):
    """The lower half of an image, the second of a sequence."""

    def __init__(self) -> None:
        super().__init__(axis=0, last=True)


class UpperHalf(Half):
    """The upper half of an image, the first of a sequence."""

    def __init__(self) -> None:
        super().__init__(axis=0, last=False)


class LeftHalf(Half):
    """The left half of an image, the first of a sequence."""

    def __init__(self) -> None:
        super().__init__(axis=1, last=False)


class RightHalf(Half):
    """The right half of an image, the second of a sequence."""

    def __init__(self) -> None:
        super().__init__(axis=1, last=True)


class Share(Mask):
    """A mask of which a share in (0, 1] of the places is missing."""

    def __init__(self, share: float) -> None:
        if not 0 < share <= 1:
            raise UserError(
                f"{type(self).__name__}'s share of missing places lies above 0 and is at most 1, not {share}"
            )
        self.share = share


class Centre(Share):
    """A box in the middle with the proportions of the whole, `share` of its area but for rounding to whole places."""

    def __init__(self, share: float = 0.25) -> None:
        super().__init__(share)

    def missing(self, num: int, sides: tuple[int, ...], rng: RandomSource) -> Tensor:
        gone = torch.ones(sides, dtype=torch.bool)
        for axis, side in enumerate(sides):
            width = round(side * self.share ** (1 / len(sides)))
            first = (side - width) // 2
            kept = torch.cat([torch.arange(first), torch.arange(first + width, side)])
            gone.index_fill_(axis, kept, False)
        return gone


class Random(Share):
    """Places drawn anew for each example, all alike, `share` of them but for rounding to whole places."""

    def __init__(self, share: float = 0.5) -> None:
        super().__init__(share)

    def missing(self, num: int, sides: tuple[int, ...], rng: RandomSource) -> Tensor:
        places = math.prod(sides)
        order = rng.uniform((num, places), torch.float64).argsort(1)  # each permutation as likely
        return (order < round(self.share * places)).unflatten(1, sides)


def known_of(mask: Mask, num: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """bool [num, *shape]: what is known of the first examples of a split; row i depends on (seed, i) alone.

    Raises:
        UserError: data that the mask does not fit.
    """
    # drawn on the CPU whatever the model runs on: the holes are then the same
    return mask.known(num, shape, IndexedSource(seed, range(num)).fork("holes"))


def imputing(model: Any) -> Imputation:
    """The model itself.

    Raises:
        UserError: it has no power to fill holes.
    """
    if not isinstance(model, Imputation):
        raise UserError(
            f"{type(model).__name__} cannot fill holes: give a model that can, such as a diffusion or a VAE"
        )
    return model


@torch.no_grad()
def filled(
    model: Imputation,
    x: Tensor,
    known: Tensor,
    y: Tensor | None = None,
    num: int = 1,
    *,
    imputer: Any | None = None,
    seed: int = 0,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    advance: Advance = int,
) -> Tensor:
    """[B, num, *shape] on the CPU, in the data's own domain: x with its holes filled in `num` ways.

    Way k of example i depends on (seed, i, k) alone.

    Args:
        x: [B, *shape], the first examples of a split.
        known: bool [B, *shape].
        y: conditions [B, ...], or None.
        imputer: of the family; the model's own by default.
        batch_size: fillings at a time.
        advance: called with the number of fillings just made.
    """
    together = min(num, batch_size)  # ways of one example
    batches = []
    for rows in torch.arange(len(x)).split(batch_size // together):
        given = [None if part is None else part[rows].to(device) for part in (x, known, y)]
        source, ways = IndexedSource(seed, rows, device), []
        for some in torch.arange(num).split(together):
            repeated = (None if part is None else torch.cat([part] * len(some)) for part in given)
            rng = StackedSource([source.fork("filling", k) for k in some.tolist()])
            found = model.impute(*repeated, imputer=imputer, rng=rng)
            ways.append(found.unflatten(0, (len(some), len(rows))).transpose(0, 1).cpu())
            advance(len(found))
        batches.append(torch.cat(ways, 1))
    return torch.cat(batches)


def side_by_side(x: Tensor, known: Tensor, fillings: Tensor) -> Tensor:
    """int64 [B, 2 + num, *shape]: examples [B, *shape] in levels, the same with NOTHING in their holes, the fillings."""
    x = x.long()
    return torch.cat([torch.stack([x, x.where(known, NOTHING)], 1), fillings.long()], 1)
