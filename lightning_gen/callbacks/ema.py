"""Exponential moving averages of the weights: several at once, kept out of the module, used through one scope."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.generative_module import CHECKPOINT_KEY, GenerativeModule


class AverageProfile(ABC):
    """How the decay of an average grows with the number of updates."""

    @abstractmethod
    def decay(self, value: float, update: int) -> float:
        """The decay of update 1, 2, ... for the average named by `value`."""


class Constant(AverageProfile):
    """The decay is `value` from the start; the initial weights fade only as value^update."""

    def decay(self, value: float, update: int) -> float:
        return value


class WarmUp(AverageProfile):
    """min(value, (1 + n) / (offset + n)): short runs forget their initial weights."""

    def __init__(self, offset: float = 10.0) -> None:
        self.offset = offset

    def decay(self, value: float, update: int) -> float:
        return min(value, (1 + update) / (self.offset + update))


class Power(AverageProfile):
    """(1 - 1/n)^(gamma + 1): a window that stays a fixed share `value` = sigma_rel of the training (Karras et al. 2024).

    gamma solves sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), eq. 126 there.
    """

    def decay(self, value: float, update: int) -> float:
        if value > 12**-0.5:  # the mean of all steps, gamma = 0; beyond it late steps would weigh less than early ones
            raise UserError(f"the share of an average of power profile lies in (0, 0.288], got {value}")
        inverse = value**-2
        gamma = np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max()
        return float((1 - 1 / update) ** (gamma + 1))


class EMA(Callback):
    """Averages the trained parameters after every optimizer step.

    The shadows live here, in float32, not in the module tree. They travel in every checkpoint, also in weights-only
    ones, and a checkpoint always holds the raw weights as the module's own, even one written during validation.
    Validation, test and predict run inside the first average's scope.

    Args:
        decays: one average each, named by its number; empty for none.
        profile: how the decay grows; `WarmUp` by default.
    """

    def __init__(self, decays: list[float] = [0.999], profile: AverageProfile | None = None) -> None:  # noqa: B006
        if any(not 0.0 < decay < 1.0 for decay in decays):
            raise UserError(f"EMA decays lie in (0, 1), got {decays}")
        if len(set(decays)) < len(decays):
            raise UserError(f"EMA decays name their averages, and must differ: got {decays}")
        self.decays, self.profile = list(decays), profile or WarmUp()
        for decay in decays:
            self.profile.decay(decay, 1)  # refused here, not after the first step
        self.updates = 0
        self._shadows: dict[str, dict[str, Tensor]] = {}
        self._trained: list[Tensor] = []  # the parameters, in the shadows' order: walking the module takes long
        self._raw: dict[str, Tensor] | None = None  # the parameters' own values while a scope is open
        self._open: str | None = None
        self._stage = None
        self._last_step = 0

    def setup(self, trainer: Trainer, pl_module: GenerativeModule, stage: str) -> None:
        if self.decays:
            pl_module.averages = self

    # ---- averaging ------------------------------------------------------------------------------------------------

    @staticmethod
    def _parameters(module: GenerativeModule) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}

    def on_train_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        # not on_fit_start: a resumed run's step is not restored by then
        if self.decays:
            self._prepare(pl_module)
        self._last_step = trainer.global_step

    def _prepare(self, module: GenerativeModule) -> None:
        """A shadow for each decay on the parameters' device; one that no checkpoint brought starts at their values."""
        parameters = self._parameters(module)
        self._trained = [p for p in module.parameters() if p.requires_grad]
        for decay in self.decays:
            shadow = self._shadows.get(str(decay), parameters)
            self._shadows[str(decay)] = {
                name: shadow[name].to(p.device, torch.float32, copy=shadow is parameters)
                for name, p in parameters.items()
            }

    def on_train_batch_end(self, trainer: Trainer, pl_module: GenerativeModule, *args: Any) -> None:
        if not self.decays or trainer.global_step == self._last_step:  # an accumulation's micro-batch
            return
        self._last_step = trainer.global_step
        self.updates += 1
        with torch.no_grad():
            current = [p.float() for p in self._trained]
            for decay in self.decays:
                weight = 1 - self.profile.decay(decay, self.updates)
                torch._foreach_lerp_(list(self._shadows[str(decay)].values()), current, weight)

    # ---- using ----------------------------------------------------------------------------------------------------

    @contextmanager
    def scope(self, module: GenerativeModule, name: str | None = None) -> Iterator[None]:
        """The module's parameters are the average `name` (the first by default) within the scope.

        Raises:
            UserError: if there is no such average.
        """
        name = str(self.decays[0]) if name is None else name
        if self._open == name:
            yield
            return
        if self._open is not None:
            raise RuntimeError(f"the scope of average {self._open} is still open")
        self._prepare(module)
        if name not in self._shadows:
            raise UserError(f"there is no average {name!r}, only {', '.join(self._shadows)}")
        parameters = self._parameters(module)
        self._raw, self._open = {key: p.clone() for key, p in parameters.items()}, name
        torch._foreach_copy_(list(parameters.values()), list(self._shadows[name].values()))
        try:
            yield
        finally:
            torch._foreach_copy_(list(parameters.values()), list(self._raw.values()))
            self._raw = self._open = None

    def _enter(self, pl_module: GenerativeModule) -> None:
        self._stage = pl_module.ema_scope()
        self._stage.__enter__()

    def _exit(self) -> None:
        if self._stage is not None:
            self._stage.__exit__(None, None, None)
            self._stage = None

    def on_validation_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        self._enter(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        self._enter(pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        self._enter(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        self._exit()

    def on_test_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        self._exit()

    def on_predict_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        self._exit()

    def on_exception(self, trainer: Trainer, pl_module: GenerativeModule, exception: BaseException) -> None:
        self._exit()

    # ---- saving ---------------------------------------------------------------------------------------------------

    def write(self, module: GenerativeModule, checkpoint: dict[str, Any]) -> None:
        """Puts the averages into the checkpoint, and the raw weights where an open scope has exchanged them."""
        checkpoint[CHECKPOINT_KEY]["averages"] = {"updates": self.updates, "weights": self._shadows}
        if self._raw is not None:
            raw = {p: self._raw[name] for name, p in module.named_parameters() if name in self._raw}
            for name, p in module.named_parameters(remove_duplicate=False):  # a tied weight stands under each name
                if p in raw:
                    checkpoint["state_dict"][name] = raw[p]

    def read(self, module: GenerativeModule, checkpoint: dict[str, Any]) -> None:
        """Takes the averages of a checkpoint; decays it does not hold start anew at its weights."""
        stored = checkpoint.get(CHECKPOINT_KEY, {}).get("averages")
        if stored is not None:
            self.updates = stored["updates"]
            self._shadows = {name: dict(weights) for name, weights in stored["weights"].items()}
