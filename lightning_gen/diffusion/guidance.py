"""Guidance wraps a denoiser in another.

Every guided prediction keeps x_t = alpha x0 + sigma eps: to raise the score by g at a given x_t is to lower eps by
sigma g and to raise x0 by sigma^2 / alpha g.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_gen.broadcasting import broadcast
from lightning_gen.conditional import ClassifierFreeScale
from lightning_gen.diffusion.denoisers import Denoiser
from lightning_gen.diffusion.parameterizations import Prediction
from lightning_gen.diffusion.paths import GaussianPath
from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.errors import UserError


class Process(Protocol):
    """What decides which second models may guide a diffusion.

    Attributes:
        conditional: whether it takes y.
    """

    shape: tuple[int, ...]
    levels: int | None
    num_classes: int | None
    conditional: bool
    schedule: NoiseSchedule
    path: GaussianPath


class Guidance(ABC):
    """A new guidance defines `guide`."""

    evaluations: int = 1
    """Networks that a guided evaluation asks, at most."""

    guide_model: Any = None
    """The second model that it asks, a module whose weights are part of how samples were made; None for none."""

    by_gradient: bool = False
    """Whether it changes the score, which cannot be turned into x0 where nothing of the data is left."""

    def check(self, conditional: bool, label_dropout: float) -> None:  # noqa: B027  most guide any model
        """Raises IncompatibleAxes where a model, conditional or not, trained with that dropout, cannot be guided so."""

    def check_process(self, guided: Process) -> None:  # noqa: B027  most ask no second model
        """Raises UserError where a second model does not fit the one that is guided. It is opened only now."""

    @abstractmethod
    def guide(self, denoiser: Denoiser, x_t: Tensor, logsnr: Tensor, y: Tensor | None) -> Prediction: ...

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        """The guided denoiser."""
        return Guided(self, denoiser)


class Guided(Denoiser):
    """A denoiser under guidance."""

    def __init__(self, guidance: Guidance, denoiser: Denoiser) -> None:
        self.guidance, self.denoiser, self.path = guidance, denoiser, denoiser.path

    def __call__(self, x_t: Tensor, logsnr: Tensor, y: Tensor | None = None) -> Prediction:
        return self.guidance.guide(self.denoiser, x_t, logsnr, y)


class ClassifierFree(ClassifierFreeScale, Guidance):
    """eps = eps(x_t) + scale (eps(x_t | y) - eps(x_t)): scale 0 is unconditional, 1 conditional, more sharpens.

    Ho & Salimans 2022, with scale = 1 + w. The network must have been trained with label dropout. Outside of the interval
    one evaluation is enough, so that `evaluations`, and a sampler's nfe with it, are an upper bound where there is one.

    Args:
        scale: of the guidance.
        lowest, highest: log-SNR between which there is guidance, nats; the plain conditional prediction elsewhere. None
            for no limit (Kynkaanniemi et al. 2024, whose sigma is that of log-SNR = -2 log sigma).
        rescale: share, in [0, 1], by which each example's x0 gets back the standard deviation of the conditional one: a
            large scale raises it, and images are overexposed (Lin et al. 2024, sec. 3.4).

    Raises:
        UserError: for an interval that is empty, or a share that is none.
    """

    def __init__(
        self, scale: float = 1.5, lowest: float | None = None, highest: float | None = None, rescale: float = 0.0
    ) -> None:
        if lowest is not None and highest is not None and lowest >= highest:
            raise UserError(f"guidance needs lowest < highest log-SNR, got {lowest} and {highest}")
        if not 0.0 <= rescale <= 1.0:
            raise UserError(f"guidance's rescale lies in [0, 1], got {rescale}")
        self.scale, self.lowest, self.highest, self.rescale = scale, lowest, highest, rescale

    def guide(self, denoiser: Denoiser, x_t: Tensor, logsnr: Tensor, y: Tensor | None) -> Prediction:
        if y is None:
            raise UserError("classifier-free guidance needs a condition y, and this sampling has none")
        scale = self._scale_at(logsnr)
        if not isinstance(scale, Tensor) and scale in (0.0, 1.0):
            return denoiser(x_t, logsnr, y if scale else None)
        conditional = denoiser(x_t, logsnr, y)
        guided = extrapolated(denoiser(x_t, logsnr, None), conditional, scale)
        return guided if self.rescale == 0.0 else self._rescaled(guided, conditional, logsnr)

    def _scale_at(self, logsnr: Tensor) -> float | Tensor:
        """`scale` within the interval and 1 outside: one number where it is the same for all, else [B]."""
        if self.lowest is None and self.highest is None:
            return self.scale  # no question of numbers that lie on the device
        low = -math.inf if self.lowest is None else self.lowest
        high = math.inf if self.highest is None else self.highest
        inside = (logsnr >= low) & (logsnr <= high)
        if bool(inside.all()):
            return self.scale
        if not bool(inside.any()):
            return 1.0
        # float64, as a number would be: which of the two it is depends on the others of the batch
        return torch.where(inside, torch.full_like(logsnr, self.scale, dtype=torch.float64), 1.0)

    def _rescaled(self, guided: Prediction, conditional: Prediction, logsnr: Tensor) -> Prediction:
        now, before = (p.x0.flatten(1).std(1, correction=0) for p in (guided, conditional))
        ratio = torch.where(now > 0, before / now, 1.0)
        return moved(guided, (1 + broadcast(self.rescale * (ratio - 1), guided.x0)) * guided.x0, logsnr)


class Threshold:
    """Keeps x0 of a guided prediction in the data's range [-1, 1]; eps changes so that x_t = alpha x0 + sigma eps stays.

    Args:
        percentile: None clips each value ("static", as DDPM's code does). Else an example's range is that share's quantile of
            |x0|, at least 1; x0 is clipped to it and divided by it ("dynamic", Saharia et al. 2022, sec. 2.3: 0.995).

    Raises:
        UserError: unless 0 < percentile <= 1.
    """

    def __init__(self, percentile: float | None = None) -> None:
        if percentile is not None and not 0.0 < percentile <= 1.0:
            raise UserError(f"Threshold's percentile lies in (0, 1], got {percentile}")
        self.percentile = percentile

    def __call__(self, prediction: Prediction, logsnr: Tensor) -> Prediction:
        x0 = prediction.x0
        if self.percentile is None:
            kept = x0.clamp(-1.0, 1.0)
        else:
            sizes = x0.abs().flatten(1)
            reach = sizes.kthvalue(math.ceil(self.percentile * sizes.shape[1]), dim=1).values.clamp(min=1.0)
            reach = broadcast(reach, x0)
            kept = torch.minimum(torch.maximum(x0, -reach), reach) / reach
        return moved(prediction, kept, logsnr)


class Thresholded(Denoiser):
    """A denoiser whose predictions are kept in the data's range."""

    def __init__(self, threshold: Threshold, denoiser: Denoiser) -> None:
        self.threshold, self.denoiser, self.path = threshold, denoiser, denoiser.path

    def __call__(self, x_t: Tensor, logsnr: Tensor, y: Tensor | None = None) -> Prediction:
        return self.threshold(self.denoiser(x_t, logsnr, y), logsnr)


def moved(prediction: Prediction, x0: Tensor, logsnr: Tensor) -> Prediction:
    """The prediction with another x0 for the same x_t: eps changes by -alpha / sigma of the difference."""
    change = x0 - prediction.x0
    ratio = broadcast(torch.exp(0.5 * logsnr.to(change.dtype)), change)  # alpha / sigma
    return prediction._replace(x0=x0, eps=prediction.eps - ratio * change)


def extrapolated(start: Prediction, end: Prediction, scale: float | Tensor) -> Prediction:
    """start + scale (end - start), what else `end` knows being kept; exactly `start` at 0 and `end` at 1."""
    if isinstance(scale, Tensor):
        scale = broadcast(scale.to(end.x0.dtype), end.x0)
    return end._replace(x0=torch.lerp(start.x0, end.x0, scale), eps=torch.lerp(start.eps, end.eps, scale))


def tilted(prediction: Prediction, slope: Tensor, logsnr: Tensor, path: GaussianPath) -> Prediction:
    """The prediction whose score is higher by `slope`, of x_t's shape: of the density times exp of its potential."""
    alpha, sigma = (broadcast(s.to(slope.dtype), slope) for s in path.scales(logsnr.double())[:2])
    x0 = prediction.x0 + sigma.square() / alpha * slope
    return prediction._replace(x0=x0, eps=prediction.eps - sigma * slope)


def gradient(function: Callable[..., Tensor], x_t: Tensor, *given: Tensor | None) -> Tensor:
    """d function(x, *given)_b / d x_b at x_t, for a function [B, ...], ... -> [B]; in `no_grad` and `inference_mode` too."""
    with torch.inference_mode(False), torch.enable_grad():
        # What inference mode has made takes no part in a derivative, but for a copy of it.
        rest = [g.clone() if g is not None and g.is_inference() else g for g in given]
        x = x_t.detach().clone().requires_grad_()
        return torch.autograd.grad(function(x, *rest).sum(), x)[0]
