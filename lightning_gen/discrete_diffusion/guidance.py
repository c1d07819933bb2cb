"""Guidance wraps a predictor in another."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_gen.conditional import ClassifierFreeScale
from lightning_gen.discrete_diffusion.predictor import Predictor
from lightning_gen.errors import UserError


class Guidance(ABC):
    """A new guidance defines `guide`."""

    evaluations: int = 1
    """Networks that a guided evaluation asks."""

    def check(self, conditional: bool, label_dropout: float) -> None:  # noqa: B027  most guide any model
        """Raises IncompatibleAxes where a model, conditional or not, trained with that dropout, cannot be guided so."""

    @abstractmethod
    def guide(self, predictor: Predictor, x_t: Tensor, logsnr: Tensor, y: Tensor | None) -> Tensor: ...

    def wrap(self, predictor: Predictor) -> Predictor:
        """The guided predictor."""
        return Guided(self, predictor)


class Guided(Predictor):
    """A predictor under guidance."""

    def __init__(self, guidance: Guidance, predictor: Predictor) -> None:
        self.guidance, self.predictor = guidance, predictor

    def __call__(self, x_t: Tensor, logsnr: Tensor, y: Tensor | None = None) -> Tensor:
        return self.guidance.guide(self.predictor, x_t, logsnr, y)


class ClassifierFree(ClassifierFreeScale, Guidance):
    """log w = log w(x_t) + scale (log w(x_t | y) - log w(x_t)), normalised: 0 is unconditional, 1 conditional, more sharpens.

    Ho & Salimans 2022 for what is said of x_0: of a mask, what it is filled with. When it is filled is left as it was, where
    guidance of the transition probabilities (Schiff et al. 2024) changes that too. The network must have been trained
    with label dropout.

    Args:
        scale: of the guidance.
    """

    def __init__(self, scale: float = 1.5) -> None:
        self.scale = scale

    def guide(self, predictor: Predictor, x_t: Tensor, logsnr: Tensor, y: Tensor | None) -> Tensor:
        if y is None:
            raise UserError("classifier-free guidance needs a condition y, and this sampling has none")
        if self.scale in (0.0, 1.0):
            return predictor(x_t, logsnr, y if self.scale else None)
        return torch.lerp(predictor(x_t, logsnr, None), predictor(x_t, logsnr, y), self.scale).log_softmax(-1)
