"""Powers that some families have. Callbacks and evaluation ask for the power, never for the family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from lightning_gen.random_source import RandomSource


class Imputation(ABC):
    """A family that can fill the holes of an instance."""

    @abstractmethod
    def impute(
        self,
        x: Tensor,
        mask: Tensor,
        y: Tensor | None = None,
        *,
        imputer: Any | None = None,
        rng: RandomSource | None = None,
    ) -> Tensor:
        """x with its holes filled by a sample of what belongs there, given the rest and y; the known values untouched.

        Args:
            x: [B, *shape] in the data's own domain. What stands in its holes has no influence.
            mask: bool or integers, [B, *shape], [*shape] or what broadcasts to them: true, or not 0, where x is known.
            y: conditions [B, ...], or None for no condition.
            imputer: of the family: how it is done.
            rng: an `IndexedSource` of indices 0..B-1 with seed 0 by default.
        """


class Film(ABC):
    """A family whose samples take shape step by step."""

    @abstractmethod
    def film(
        self,
        num: int,
        frames: int,
        y: Tensor | None = None,
        *,
        sampler: Any | None = None,
        rng: RandomSource | None = None,
    ) -> Tensor:
        """[num, frames, *shape] in the data's own domain: stations of `sample`, from pure noise to the sample itself.

        The last frame is what `sample` gives for the same arguments.
        """
