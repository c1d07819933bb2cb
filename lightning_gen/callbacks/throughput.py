"""How fast training runs, and how far it has come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_gen.loggers import is_logged


class Throughput(Callback):
    """Logs `throughput/images_per_s` since the last logged step, `images_seen` and `optim/lr`, on logged steps only.

    The clock runs from step to step, waiting for data included; validation and whatever stands in `paused` (sheets,
    checkpoints) are taken off. On a GPU the queue is waited for, on logged steps only.
    """

    def __init__(self) -> None:
        self._seconds = self._paused = self._last = self._validation = self._rate = 0.0
        self._images = 0

    def pause(self, seconds: float) -> None:
        """Takes this time off the current step's."""
        self._paused += seconds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pause(time.perf_counter() - self._validation)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]  # this step's: the schedule moves within

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        accumulation = trainer.accumulate_grad_batches
        logs = is_logged(trainer, step) and (batch_idx + 1) % accumulation == 0
        if logs and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        now = time.perf_counter()
        self._seconds += now - self._last - self._paused
        self._last, self._paused = now, 0.0
        self._images += len(batch[0]) * trainer.world_size
        if not logs:
            return
        metrics = {
            "images_seen": float(step * len(batch[0]) * trainer.world_size * accumulation),
            "throughput/images_per_s": self._images / self._seconds,
            "optim/lr": self._rate,
        }
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
        self._seconds, self._images = 0.0, 0


@contextmanager
def paused(trainer: Trainer) -> Iterator[None]:
    """What runs within is no training: it does not count in the throughput."""
    start = time.perf_counter()
    try:
        yield
    finally:
        for callback in trainer.callbacks:
            if isinstance(callback, Throughput):
                callback.pause(time.perf_counter() - start)
