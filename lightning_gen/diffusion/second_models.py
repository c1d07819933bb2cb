"""Guidance by a second model, another run: a classifier of noisy data, or a worse version of the model itself."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from lightning_gen.broadcasting import broadcast
from lightning_gen.diffusion.denoisers import Denoiser
from lightning_gen.diffusion.guidance import Guidance, Process, extrapolated, gradient, tilted
from lightning_gen.diffusion.parameterizations import Prediction
from lightning_gen.diffusion.paths import GaussianPath
from lightning_gen.errors import UserError


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

    by_gradient = True

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

    The worse one is another run, smaller or trained for less; both are conditional and take the same y, or neither is.
    Scale 1 is no guidance.

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

    def check_process(self, guided: Process) -> None:
        super().check_process(guided)
        if guided.conditional != self.guide_model.conditional:
            has, lacks = ("the model that it guides", f"run {self.run}")[:: 1 if guided.conditional else -1]
            raise UserError(
                f"AutoGuidance needs two conditional models or two unconditional ones: {has} has a conditioner and {lacks} "
                "has none, so give another run"
            )

    def guide(self, denoiser: Denoiser, x_t: Tensor, logsnr: Tensor, y: Tensor | None) -> Prediction:
        good = denoiser(x_t, logsnr, y)
        if self.scale == 1.0:
            return good
        worse = self.asked(x_t).denoiser
        bad = worse(on_path(x_t, logsnr, denoiser.path, worse.path), logsnr, y)
        return extrapolated(bad, good, self.scale)
