"""What is looked at every so many steps, from outside of training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from lightning_gen.callbacks.throughput import paused
from lightning_gen.generative_module import GenerativeModule


class Periodic(Callback, ABC):
    """Calls `look` every `every_n_steps` optimizer steps and at the end of training, once a step; with 0 never.

    The time it takes is none of training's, and a resumed run does not look again at the step it goes on from.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self._last = 0

    @abstractmethod
    def look(self, trainer: Trainer, module: GenerativeModule) -> None:
        """On all ranks; `trainer.global_step` is the step."""

    def on_train_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        # not on_fit_start: a resumed run's step is not restored by then
        self._last = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: GenerativeModule, *args: Any) -> None:
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            self._look_once(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        if self.every_n_steps:
            self._look_once(trainer, pl_module)

    def _look_once(self, trainer: Trainer, module: GenerativeModule) -> None:
        if trainer.global_step == self._last:
            return
        self._last = trainer.global_step
        with paused(trainer):
            self.look(trainer, module)


@contextmanager
def judging(module: nn.Module) -> Iterator[None]:
    """The module in eval mode and without gradients; train and eval modes are afterwards what they were."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode
