"""What a run directory gets when training begins, and not a moment before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from lightning_gen.loggers import MetricsCSV
from lightning_gen.run_directory import write_atomically


class RunBegins(Callback):
    """Writes the run's id and config, opens its CSV and its W&B run: before the first step, and after all that can be
    refused (sizes, devices, rates) has been, so that a command that was wrong leaves the directory as it was.

    Args:
        run: the run directory.
        identity: the run's id.
        step: what it goes on from, 0 from the start; later rows of the CSV are dropped.
        config: the whole config as primitives.
    """

    def __init__(self, run: Path, identity: str, step: int, config: dict[str, Any]) -> None:
        self.run, self.identity, self.step, self.config = run, identity, step, config

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            write_atomically(self.run / "run_id", self.identity + "\n")
            write_atomically(self.run / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))
            if self.step:
                print(f"{self.run} goes on from step {self.step}")
        others = list(trainer.loggers)
        trainer.loggers = [MetricsCSV(self.run, self.step), *others]
        for logger in others:
            logger.log_hyperparams(self.config)
            if isinstance(logger, WandbLogger) and logger._offline and trainer.is_global_zero:
                print(f"W&B is offline; send this run later with: wandb sync {self.run}/wandb/offline-run-*")
