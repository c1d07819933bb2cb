"""Sample sheets during training, always from the same noise, so that they can be laid side by side."""

from __future__ import annotations

import warnings
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger

from lightning_gen.callbacks.periodic import Periodic, judging
from lightning_gen.errors import UserError
from lightning_gen.generative_module import EVALUATION_SEED, GenerativeModule
from lightning_gen.random_source import IndexedSource


class SampleSheet(Periodic):
    """Draws samples from the averaged weights and writes `samples/step_NNNNNNNN.png`, and to W&B where a run has it.

    The noise is a function of the sample's index: the sheets show one set of samples taking shape. Training's random
    state is left alone.

    Args:
        every_n_steps: optimizer steps between sheets, or 0 for none; one is drawn at the end of training too.
        num: samples a sheet.
    """

    def __init__(self, every_n_steps: int = 1000, num: int = 64) -> None:
        super().__init__(every_n_steps)
        self.num = num

    def look(self, trainer: Trainer, module: GenerativeModule) -> None:
        if not trainer.is_global_zero:  # sampling holds no collective: the other ranks go on
            return
        from lightning_gen.pictures import save_samples

        path = Path(trainer.default_root_dir) / "samples" / f"step_{trainer.global_step:08d}.png"
        try:
            with judging(module), module.ema_scope():
                samples = module.sample(self.num, rng=IndexedSource(EVALUATION_SEED, range(self.num), module.device))
            save_samples(samples.cpu(), module.levels, path)
        except UserError as error:  # data that have no picture, or samples that are not finite: training goes on
            warnings.warn(f"no sample sheet at step {trainer.global_step}: {error}", stacklevel=2)
            return
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("samples", [str(path)], step=trainer.global_step)
