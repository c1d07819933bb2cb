"""What an error at a noise level weighs in the loss. At one level it changes nothing."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_gen.dae.preconditioning import Preconditioned, Preconditioning
from lightning_gen.errors import UserError


class Weighting(ABC):
    """A new weighting defines `__call__`."""

    @abstractmethod
    def __call__(self, sigma: Tensor) -> Tensor:
        """Weights [B] of squared errors of the clean data, at sigma [B]."""

    def check(self, preconditioning: Preconditioning) -> None:  # noqa: B027  most suit any
        """Raises UserError where this makes no sense of a network that stands in that preconditioning."""


class Unweighted(Weighting):
    """The reconstruction error itself: most of it comes from the highest levels."""

    def __call__(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)


class InverseVariance(Weighting):
    """1 / sigma^2: the error of the noise, or sigma^2 times that of the score (Song and Ermon 2019, sec. 4.2)."""

    def __call__(self, sigma: Tensor) -> Tensor:
        return sigma**-2


class UnitTarget(Weighting):
    """1 / sigma^2 + 1 / data_std^2: every level weighs alike in the output of a `Preconditioned` network (Karras et al. 2022).

    Args:
        data_std: of the floats, the preconditioning's.
    """

    def __init__(self, data_std: float = 0.5) -> None:
        if not 0 < data_std < math.inf:
            raise UserError(f"UnitTarget's data_std must be positive and finite, got {data_std}")
        self.data_std = data_std

    def check(self, preconditioning: Preconditioning) -> None:
        if isinstance(preconditioning, Preconditioned) and preconditioning.data_std != self.data_std:
            raise UserError(
                f"UnitTarget's data_std is that of its Preconditioned, {preconditioning.data_std:g}, not {self.data_std:g}"
            )

    def __call__(self, sigma: Tensor) -> Tensor:
        return sigma**-2 + self.data_std**-2
