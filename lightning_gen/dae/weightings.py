"""What an error at a noise level weighs in the loss. At one level it changes nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Weighting(ABC):
    """A new weighting defines `__call__`."""

    @abstractmethod
    def __call__(self, sigma: Tensor) -> Tensor:
        """Weights [B] of squared errors of the clean data, at sigma [B]."""


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
        self.data_std = data_std

    def __call__(self, sigma: Tensor) -> Tensor:
        return sigma**-2 + self.data_std**-2
