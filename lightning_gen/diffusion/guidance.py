"""Guidance wraps a denoiser in another."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from lightning_gen.diffusion.denoisers import Denoiser
from lightning_gen.diffusion.parameterizations import Prediction
from lightning_gen.errors import UserError


class Guidance(ABC):
    """A new guidance defines `guide`."""

    evaluations: int = 1
    """Network evaluations a guided evaluation costs."""

    @abstractmethod
    def guide(self, denoiser: Denoiser, x_t: Tensor, logsnr: Tensor, y: Tensor | None) -> Prediction: ...

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        """The guided denoiser."""
        return _Guided(self, denoiser)


class _Guided(Denoiser):
    def __init__(self, guidance: Guidance, denoiser: Denoiser) -> None:
        self.guidance, self.denoiser, self.path = guidance, denoiser, denoiser.path

    def __call__(self, x_t: Tensor, logsnr: Tensor, y: Tensor | None = None) -> Prediction:
        return self.guidance.guide(self.denoiser, x_t, logsnr, y)


class ClassifierFree(Guidance):
    """eps = eps(x_t) + scale (eps(x_t | y) - eps(x_t)): scale 0 is unconditional, 1 conditional, more sharpens.

    Ho & Salimans 2022, with scale = 1 + w. The network must have been trained with label dropout.
    """

    evaluations = 2

    def __init__(self, scale: float = 1.5) -> None:
        self.scale = scale

    def guide(self, denoiser: Denoiser, x_t: Tensor, logsnr: Tensor, y: Tensor | None) -> Prediction:
        if y is None:
            raise UserError("classifier-free guidance needs a condition y, and this sampling has none")
        free, conditional = denoiser(x_t, logsnr, None), denoiser(x_t, logsnr, y)
        return Prediction(*(u + self.scale * (c - u) for u, c in zip(free[:2], conditional[:2])))
