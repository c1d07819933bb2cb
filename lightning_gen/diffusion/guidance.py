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

from lightning_gen.diffusion.denoisers import Denoiser
from lightning_gen.diffusion.parameterizations import Prediction
from lightning_gen.diffusion.paths import GaussianPath, broadcast
from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.errors import IncompatibleAxes, UserError


class Process(Protocol):
    """What two models must agree on for one to guide the other: a diffusion has it, and so has a noisy classifier."""

    shape: tuple[int, ...]
    levels: int | None
    num_classes: int | None
    schedule: NoiseSchedule
    path: GaussianPath


class Guidance(ABC):
    """A new guidance defines `guide`."""

    evaluations: int = 1
    """Networks that a guided evaluation asks, at most."""

    guide_model: Any = None
    """The second model that it asks, a module whose weights are part of how samples were made; None for none."""

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


class ClassifierFree(Guidance):
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

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return 1 if self.scale in (0.0, 1.0) else 2

    def check(self, conditional: bool, label_dropout: float) -> None:
        if not conditional:
            raise IncompatibleAxes("classifier-free guidance needs a conditional model: give it a conditioner")
        if label_dropout == 0.0:
            raise IncompatibleAxes("classifier-free guidance needs a model trained with label_dropout above 0")

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
        return torch.where(inside, self.scale, 1.0) if bool(inside.any()) else 1.0

    def _rescaled(self, guided: Prediction, conditional: Prediction, logsnr: Tensor) -> Prediction:
        now, before = (p.x0.flatten(1).std(1, correction=0) for p in (guided, conditional))
        ratio = torch.where(now > 0, before / now, 1.0)
        change = broadcast(self.rescale * (ratio - 1), guided.x0) * guided.x0
        noise_to_signal = broadcast(torch.exp(0.5 * logsnr.to(change.dtype)), change)  # alpha / sigma
        return guided._replace(x0=guided.x0 + change, eps=guided.eps - noise_to_signal * change)


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


class SecondModel(Guidance):
    """A guidance that asks a second model, opened when it is first needed, and no part of the guided one.

    A new one says in `kind` which models will do.

    Args:
        run: the second model's run directory (its newest checkpoint) or a checkpoint file.
        scale: of the guidance.
        weights: of the second model: "ema", "ema:DECAY" or "raw".
    """

    def __init__(self, run: str, scale: float, weights: str = "ema") -> None:
        self.run, self.scale, self.weights = run, scale, weights
        self._opened: Any = None

    @staticmethod
    @abstractmethod
    def kind() -> type:
        """Class of the second model."""

    @property
    def guide_model(self) -> Any:
        if self._opened is None:
            from lightning_gen.loading import load

            # To build a network draws its first weights: sampling leaves the global random state alone.
            with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
                model = load(self.run, self.weights)
            if not isinstance(model, self.kind()):
                name, kind = type(self).__name__, self.kind().__name__
                raise UserError(
                    f"{name} asks a {kind}, and {self.run} holds a {type(model).__name__}: give another run"
                )
            self._opened = model.requires_grad_(False)
        return self._opened

    def asked(self, x_t: Tensor) -> Any:
        """The second model where x_t is."""
        return self.guide_model.to(x_t.device)

    def check_process(self, guided: Process) -> None:
        second, name = self.guide_model, type(self).__name__
        for what in ("shape", "levels", "num_classes"):
            own, other = getattr(guided, what), getattr(second, what)
            if own != other:
                raise UserError(f"{name}'s run {self.run} has {what} {other}, the model that it guides has {own}")
        low, high = (float(end) for end in (guided.schedule.logsnr_min, guided.schedule.logsnr_max))
        lowest, highest = (float(end) for end in (second.schedule.logsnr_min, second.schedule.logsnr_max))
        if low < lowest - 0.01 or high > highest + 0.01:
            raise UserError(
                f"{name}'s run {self.run} knows log-SNR from {lowest:g} to {highest:g}, the model that it guides goes from "
                f"{low:g} to {high:g}: train it on a schedule with these ends"
            )


def on_path(x_t: Tensor, logsnr: Tensor, own: GaussianPath, other: GaussianPath) -> Tensor:
    """x_t of one path as that of another: at equal log-SNR they differ by a factor; unchanged on equal paths."""
    ratio = other.scales(logsnr.double())[0] / own.scales(logsnr.double())[0]
    return broadcast(ratio.to(x_t.dtype), x_t) * x_t


class ClassifierGuidance(SecondModel):
    """eps = eps(x_t) - scale sigma grad log p(y | x_t), p a classifier of noisy data (Dhariwal & Nichol 2021, alg. 2).

    At scale 1 the score is that of the data of class y, whether or not the guided model knows of classes. The classifier
    is a `NoisyClassifier`; log-SNR alone joins it to the model, so its schedule and path may be others.

    Args:
        run: the classifier's.
        scale: of the gradient; the paper's are 1 to 10.
        weights: of the classifier.
    """

    def __init__(self, run: str, scale: float = 1.0, weights: str = "ema") -> None:
        super().__init__(run, scale, weights)

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return 2 if self.scale else 1

    @staticmethod
    def kind() -> type:
        from lightning_gen.diffusion.classifier_module import NoisyClassifier

        return NoisyClassifier

    def guide(self, denoiser: Denoiser, x_t: Tensor, logsnr: Tensor, y: Tensor | None) -> Prediction:
        if y is None:
            raise UserError("classifier guidance needs labels y, and this sampling has none")
        prediction = denoiser(x_t, logsnr, y)
        if self.scale == 0.0:
            return prediction
        classifier = self.asked(x_t)

        def log_prob(x: Tensor, logsnr: Tensor, y: Tensor) -> Tensor:
            return classifier.log_prob(on_path(x, logsnr, denoiser.path, classifier.path), logsnr, y)

        return tilted(prediction, self.scale * gradient(log_prob, x_t, logsnr, y), logsnr, denoiser.path)


class AutoGuidance(SecondModel):
    """D = D_bad + scale (D_good - D_bad): away from what a worse version of the model would do (Karras et al. 2024).

    The worse one is another run, smaller or trained for less; with labels both take them, without none does. Scale 1 is
    no guidance.

    Args:
        run: the worse model's.
        scale: of the guidance; the paper's are about 2.
        weights: of the worse model.
    """

    def __init__(self, run: str, scale: float = 2.0, weights: str = "ema") -> None:
        super().__init__(run, scale, weights)

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return 1 if self.scale == 1.0 else 2

    @staticmethod
    def kind() -> type:
        from lightning_gen.diffusion.module import GaussianDiffusion

        return GaussianDiffusion

    def guide(self, denoiser: Denoiser, x_t: Tensor, logsnr: Tensor, y: Tensor | None) -> Prediction:
        good = denoiser(x_t, logsnr, y)
        if self.scale == 1.0:
            return good
        worse = self.asked(x_t).denoiser
        bad = worse(on_path(x_t, logsnr, denoiser.path, worse.path), logsnr, y)
        return extrapolated(bad, good, self.scale)
