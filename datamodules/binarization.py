"""Greys {0..255} to bits: by a threshold, or each pixel 1 with its grey as probability (Salakhutdinov & Murray 2008)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.random_source import IndexedSource, RandomSource, derive_seed


class Binarization(ABC):
    """How images become binary: `fixed` bits of the splits, and for training the same or fresh ones for every batch.

    Attributes:
        fresh: training reads the greys and passes each batch through `draw`.
    """

    fresh: bool = False

    @abstractmethod
    def fixed(self, x: Tensor, index: Tensor, part: str) -> Tensor:
        """The bits, uint8 {0, 1}, of greys `x` uint8 [B, ...], which are images `index` [B] of a part of the source."""

    def draw(self, x: Tensor, rng: RandomSource) -> Tensor:
        """Fresh bits, uint8 {0, 1}, of greys `x` uint8 [B, ...], on the device of both."""
        return (rng.uniform(x.shape) < x / 255).to(torch.uint8)


class Threshold(Binarization):
    """1 where the grey, as a fraction of white, is at least `at`.

    Raises:
        UserError: a threshold outside (0, 1], which makes all images alike.
    """

    def __init__(self, at: float = 0.5) -> None:
        if not 0 < at <= 1:
            raise UserError(f"a threshold (at) must be above 0 and at most 1, not {at}.")
        self.at = at

    def fixed(self, x: Tensor, index: Tensor, part: str) -> Tensor:
        bits = (torch.arange(256, dtype=torch.float64) / 255 >= self.at).to(torch.uint8)
        return bits[x.long()]


class Static(Binarization):
    """One Bernoulli draw for every image, the same in every epoch and every run.

    It is keyed by the image's index in the source, so that no subset, split or class filter changes it.

    Args:
        seed: of the draw, not of the run.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fixed(self, x: Tensor, index: Tensor, part: str) -> Tensor:
        return self.draw(x, IndexedSource(derive_seed(self.seed, "binarization", part), index))


class Dynamic(Static):
    """A fresh Bernoulli draw for every batch of training; the splits have the bits of `Static` with the same seed."""

    fresh = True
