"""Sheets during training, always of the same noise and the same examples, so that they can be laid side by side."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger

from lightning_gen.callbacks.periodic import Periodic, judging
from lightning_gen.errors import UserError
from lightning_gen.generative_module import EVALUATION_SEED, GenerativeModule
from lightning_gen.powers import LatentVariables
from lightning_gen.random_source import IndexedSource
from lightning_gen.wandb_run import RECONSTRUCTIONS, SHEETS

if TYPE_CHECKING:
    from lightning_gen.display import Display


class SampleSheet(Periodic):
    """Draws samples from the averaged weights and writes `samples/step_NNNNNNNN.png`, of text `.txt`, and to W&B where a
    run has it.

    The noise is a function of the sample's index: the sheets show one set of samples taking shape. Of a model with latents
    `reconstructions/step_NNNNNNNN.png` too shows the first validation examples, each beside E[x | z] at its encoded mean.
    Training's random state is left alone.

    Args:
        every_n_steps: optimizer steps between sheets, or 0 for none; one is drawn at the end of training too.
        num: samples a sheet; half as many examples are reconstructed.
    """

    def __init__(self, every_n_steps: int = 1000, num: int = 64) -> None:
        super().__init__(every_n_steps)
        self.num = num

    def look(self, trainer: Trainer, module: GenerativeModule) -> None:
        if not trainer.is_global_zero:  # no sheet holds a collective: the other ranks go on
            return
        from lightning_gen.display import Pictures, display_of

        self._write(trainer, module, SHEETS, display_of(module.levels, module.symbols), self._samples)
        if isinstance(module, LatentVariables) and hasattr(trainer.datamodule, "split"):
            self._write(trainer, module, RECONSTRUCTIONS, Pictures(module.levels), self._reconstructions)

    def _samples(self, trainer: Trainer, module: GenerativeModule, path: Path) -> None:
        from lightning_gen.display import display_of

        samples = module.sample(self.num, rng=IndexedSource(EVALUATION_SEED, range(self.num), module.device))
        display_of(module.levels, module.symbols).save(samples.cpu(), path)

    def _reconstructions(self, trainer: Trainer, module: GenerativeModule, path: Path) -> None:
        from lightning_gen.evaluation.latent_view import pair_columns, save_sheet, with_reconstructions

        examples = trainer.datamodule.split("val")
        first = examples.take(torch.arange(min(max(self.num // 2, 1), len(examples))))
        x, y = (column if column is None else column.to(module.device) for column in (first.x, first.y))
        save_sheet(with_reconstructions(module, x, y).cpu(), module.levels, path, pair_columns(len(x)))

    def _write(
        self,
        trainer: Trainer,
        module: GenerativeModule,
        name: str,
        display: Display,
        draw: Callable[[Trainer, GenerativeModule, Path], None],
    ) -> None:
        path = Path(trainer.default_root_dir) / name / f"step_{trainer.global_step:08d}{display.suffix}"
        try:
            with judging(module), module.ema_scope():
                draw(trainer, module, path)
        except UserError as error:  # data that have no picture, or values that are not finite: training goes on
            warnings.warn(f"no sheet of {name} at step {trainer.global_step}: {error}", stacklevel=2)
            return
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                display.log(logger, name, path, trainer.global_step)
