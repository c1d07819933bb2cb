"""Checkpoints every n steps and at the end, written whole or not at all."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

from lightning_gen.callbacks.throughput import paused
from lightning_gen.divergence import check_weights
from lightning_gen.errors import UserError
from lightning_gen.run_directory import OWN_NAME, checkpoint_files, foreign, sync


class DirectIO(TorchCheckpointIO):
    """Writes straight to the file and waits until the disk has it.

    Lightning's own way makes the file in memory first, and another beside it: for large models three times the room.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


class Checkpoints(Checkpoint):
    """Writes `checkpoints/step_NNNNNNNN.ckpt` into the run directory and keeps the newest few.

    Each is written under another name and renamed, so a file with a checkpoint's name is whole. Steps are optimizer
    steps: with accumulation no checkpoint falls between two micro-batches. One that is due at a step with a validation
    waits for its end, and the last one for the end of training: whatever belongs to a step has been written before the
    checkpoint says that the step is done, so a run that is killed between the two makes it again.
    Weights or losses that are not finite are refused, so that the last checkpoint is a good one.

    Args:
        every_n_steps: optimizer steps between checkpoints; one is written at the end of training in any case.
        keep: how many of the newest stay; at least 2 leave one behind a damaged file.

    Attributes:
        seconds: that the slowest so far has taken.
    """

    def __init__(self, every_n_steps: int = 1000, keep: int = 2) -> None:
        if every_n_steps < 1 or keep < 1:
            raise UserError(f"checkpoints need every_n_steps and keep of at least 1, got {every_n_steps} and {keep}")
        self.every_n_steps, self.keep = every_n_steps, keep
        self.seconds = 0.0
        self._last = -1
        self._waits = False  # for the end of this step's validation
        self._own: dict[Path, bool] = {}  # of the files with a checkpoint's name: whether this project wrote them

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if isinstance(trainer.strategy.checkpoint_io, AsyncCheckpointIO):
            raise UserError(
                "a checkpoint that is written beside training has no moment at which it is whole: leave out AsyncCheckpointIO"
            )
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # and not one that the config has chosen
            trainer.strategy.checkpoint_io = DirectIO()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        first = {"step": torch.tensor(0), "epoch": torch.tensor(0)}
        for other in trainer.checkpoint_callbacks:
            if isinstance(other, ModelCheckpoint) and Path(str(other.dirpath)).resolve() == _folder(trainer).resolve():
                name = Path(other.format_checkpoint_name(first)).name
                if OWN_NAME.fullmatch(name):
                    raise UserError(
                        f"a ModelCheckpoint would write files like {name}, which are the run's own: give it another filename"
                    )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # not on_fit_start: a resumed run's step is not restored by then
        self._last = trainer.global_step
        if trainer.is_global_zero:  # what a run left that was killed as it wrote
            for partial in _folder(trainer).glob("step_*[0-9].partial"):
                partial.unlink(missing_ok=True)
            self._retain(_folder(trainer))
        # A run that begins with weights from elsewhere must not depend on what becomes of them there.
        elsewhere = trainer.lightning_module.warm_start is not None or trainer.global_step > 0
        if trainer.strategy.broadcast(elsewhere and not checkpoint_files(_folder(trainer).parent)):
            self._save(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if step != self._last and step % self.every_n_steps == 0 and step != trainer.max_steps:
            self._waits = validation_due(trainer)
            if not self._waits:
                self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._waits:
            self._waits = False
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Writes the step at hand, if it is not written yet, between two steps or two batches of its validation."""
        if trainer.global_step != self._last:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.lightning_module.check_losses()
        largest = trainer.lightning_module.largest
        check_weights(trainer.lightning_module.parameters(), trainer.global_step, largest)
        self._last = trainer.global_step
        folder = _folder(trainer)
        final = folder / f"step_{trainer.global_step:08d}.ckpt"
        partial = final.with_suffix(".partial")
        begin = time.monotonic()
        for logger in trainer.loggers:
            logger.save()
        with paused(trainer):
            try:
                trainer.save_checkpoint(partial, weights_only=False)  # every rank takes part, rank zero writes
                if trainer.is_global_zero:
                    os.replace(partial, final)
                    self._own[final] = True
                    sync(folder)
                    self._retain(folder)
            finally:  # on a full disk what was written of it would take the rest
                if trainer.is_global_zero:
                    partial.unlink(missing_ok=True)
        self.seconds = max(self.seconds, time.monotonic() - begin)

    def _retain(self, folder: Path) -> None:
        files = checkpoint_files(folder.parent)
        self._own |= {file: foreign(file) is None for file in files if file not in self._own}
        for old in [file for file in files if self._own[file]][self.keep :]:
            old.unlink(missing_ok=True)


def validation_due(trainer: Trainer) -> bool:
    """Whether a validation follows the training batch that ends now."""
    loop = trainer.fit_loop.epoch_loop
    return not loop.val_loop.skip and loop._should_check_val_fx(trainer.fit_loop._data_fetcher)


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "checkpoints"
