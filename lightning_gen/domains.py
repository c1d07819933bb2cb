"""The data's own domain and the floats that are noised: integers at equally spaced points of [-1, 1], vectors as they are."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_gen.errors import UserError


def integer_dtype(levels: int) -> torch.dtype:
    """Of data with so many levels."""
    return torch.uint8 if levels <= 256 else torch.int64


class Domain(ABC):
    """A new domain says what its floats are."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Float32 [B, ...] from the data's own domain."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """The nearest point of the data's own domain."""

    @abstractmethod
    def check(self, x: Tensor) -> None:
        """Raises UserError for what is not of the data's own domain."""


class Levels(Domain):
    """Integers {0..levels-1}, l at 2 l / (levels - 1) - 1."""

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def encode(self, x: Tensor) -> Tensor:
        return x.float() * (2 / (self.levels - 1)) - 1

    def decode(self, x: Tensor) -> Tensor:
        index = ((x + 1) * ((self.levels - 1) / 2)).round().clamp(0, self.levels - 1)
        return index.to(integer_dtype(self.levels))

    def check(self, x: Tensor) -> None:
        # int(): torch compares a byte with 256 as with 0
        if x.is_floating_point() or int(x.min()) < 0 or int(x.max()) >= self.levels:
            raise UserError(f"the data are integers from 0 to {self.levels - 1}, these are not")


def check_labels(y: Tensor, num_classes: int) -> None:
    """Raises UserError unless y holds class labels: integers [B] in {0..num_classes-1}. Reads them from their device."""
    if y.ndim != 1 or y.dtype not in (torch.int64, torch.int32):
        raise UserError(f"labels are integers [B], int64, not {y.dtype} {list(y.shape)}".replace("torch.", ""))
    if len(y) and (int(y.min()) < 0 or int(y.max()) >= num_classes):
        raise UserError(f"labels of {num_classes} classes are 0 to {num_classes - 1}, not {y.min()} to {y.max()}")


class Vectors(Domain):
    """Real vectors."""

    def encode(self, x: Tensor) -> Tensor:
        return x.float()

    def decode(self, x: Tensor) -> Tensor:
        return x

    def check(self, x: Tensor) -> None:
        if not x.is_floating_point():
            raise UserError(f"the data are real vectors, these are {x.dtype}")
        if not x.isfinite().all():
            raise UserError("the data are finite real vectors, some of these are NaN or infinite")


def domain_of(levels: int | None) -> Domain:
    """Of data with so many levels; None of real vectors."""
    return Vectors() if levels is None else Levels(levels)
