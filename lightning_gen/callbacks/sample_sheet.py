"""Sample sheets during training, always from the same noise, so that they can be laid side by side."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import WandbLogger

from lightning_gen.callbacks.throughput import paused
from lightning_gen.errors import UserError
from lightning_gen.generative_module import EVALUATION_SEED, GenerativeModule
from lightning_gen.random_source import IndexedSource


class SampleSheet(Callback):
    """Draws samples from the averaged weights and writes `samples/step_NNNNNNNN.png`, and to W&B where a run has it.

    The noise is a function of the sample's index: the sheets show one set of samples taking shape. Training's random
    state is left alone.

    Args:
        every_n_steps: optimizer steps between sheets, or 0 for none; one is drawn at the end of training too.
        num: samples a sheet.
    """

    def __init__(self, every_n_steps: int = 1000, num: int = 64) -> None:
        self.every_n_steps, self.num = every_n_steps, num
        self._last = 0

    def on_train_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        # not on_fit_start: a resumed run's step is not restored by then
        self._last = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: GenerativeModule, *args: Any) -> None:
        step = trainer.global_step
        if self.every_n_steps and step != self._last and step % self.every_n_steps == 0:
            self._draw_paused(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: GenerativeModule) -> None:
        if self.every_n_steps and trainer.global_step != self._last:
            self._draw_paused(trainer, pl_module)

    def _draw_paused(self, trainer: Trainer, module: GenerativeModule) -> None:
        with paused(trainer):
            self._draw(trainer, module)

    def _draw(self, trainer: Trainer, module: GenerativeModule) -> None:
        self._last = trainer.global_step
        if not trainer.is_global_zero:  # sampling holds no collective: the other ranks go on
            return
        from lightning_gen.pictures import save_samples

        path = Path(trainer.default_root_dir) / "samples" / f"step_{trainer.global_step:08d}.png"
        modes = [(part, part.training) for part in module.modules()]
        module.eval()
        try:
            with module.ema_scope(), torch.no_grad():
                samples = module.sample(self.num, rng=IndexedSource(EVALUATION_SEED, range(self.num), module.device))
            save_samples(samples.cpu(), module.levels, path)
        except UserError as error:  # data that have no picture, or samples that are not finite: training goes on
            warnings.warn(f"no sample sheet at step {trainer.global_step}: {error}", stacklevel=2)
            return
        finally:
            for part, mode in modes:
                part.training = mode
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("samples", [str(path)], step=trainer.global_step)
