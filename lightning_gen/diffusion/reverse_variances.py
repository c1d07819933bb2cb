"""The variance of the reverse step p(x_s | x_t), around the mean of q(x_s | x_t, x0_hat)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection

import torch
from torch import Tensor

from lightning_gen.broadcasting import broadcast
from lightning_gen.diffusion.parameterizations import Prediction
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.errors import IncompatibleAxes


def smallest(at: NoiseLevel, to: NoiseLevel) -> Tensor:
    """Variance of q(x_to | x_at, x0), [] or [B]: right if the data were one point."""
    return to.sigma.square() * -torch.expm1(at.logsnr - to.logsnr)


def largest(at: NoiseLevel, to: NoiseLevel) -> Tensor:
    """Variance of q(x_at | x_to), in x_at's own scale on a VP path "beta", [] or [B]: right for standard normal data."""
    return at.sigma.square() * -torch.expm1(at.logsnr - to.logsnr)


class ReverseVariance(ABC):
    """A new reverse variance defines `__call__`."""

    needs: str | None = None
    """The optional field of a Prediction that it is made of."""

    def check(self, knows: Collection[str]) -> None:
        """Raises IncompatibleAxes for a model whose predictions have no such field."""
        if self.needs is not None and self.needs not in knows:
            other = {"share": "LearnedVariance", "variance": "TrackedVariance"}[self.needs]
            raise IncompatibleAxes(f"{type(self).__name__} needs a model that was trained with variance={other}")

    @abstractmethod
    def __call__(self, prediction: Prediction, at: NoiseLevel, to: NoiseLevel) -> Tensor:
        """Variance of p(x_to | x_at), [] or [B, ...] so that it multiplies x."""


class FixedSmall(ReverseVariance):
    """That of q(x_s | x_t, x0) (Ho et al. 2020, sec. 3.2): with it, and it alone, the bound has its simple form."""

    def __call__(self, prediction: Prediction, at: NoiseLevel, to: NoiseLevel) -> Tensor:
        return smallest(at, to)


class FixedLarge(ReverseVariance):
    """That of q(x_t | x_s), "beta" (Ho et al. 2020, sec. 3.2)."""

    def __call__(self, prediction: Prediction, at: NoiseLevel, to: NoiseLevel) -> Tensor:
        return largest(at, to)


class LearnedRange(ReverseVariance):
    """Between the two in log, at the share that the network says, pixel by pixel (Nichol & Dhariwal 2021, eq. 15)."""

    needs = "share"

    def __call__(self, prediction: Prediction, at: NoiseLevel, to: NoiseLevel) -> Tensor:
        low, high = smallest(at, to).log(), largest(at, to).log()
        share, low, high = prediction.share, broadcast(low, prediction.share), broadcast(high, prediction.share)
        return (low + share * (high - low)).exp()


class Analytic(ReverseVariance):
    """The best of those equal in all pixels: the smallest, and what the doubt about x0 adds (Bao et al. 2022, theorem 1).

    Var(x_s | x_t) = variance of q(x_s | x_t, x0) + (alpha_s c)^2 Var(x0 | x_t), c = 1 - exp(logsnr_t - logsnr_s).
    """

    needs = "variance"

    def __call__(self, prediction: Prediction, at: NoiseLevel, to: NoiseLevel) -> Tensor:
        doubt = (to.alpha * -torch.expm1(at.logsnr - to.logsnr)).square()
        return broadcast(smallest(at, to) + doubt * prediction.variance, prediction.x0)
