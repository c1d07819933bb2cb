"""How fast training runs, and how far it has come."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Logs `throughput/images_per_s` since the last logged step, `images_seen` and `optim/lr`, on logged steps only.

    The clock stands still during validation, sampling and saving (any pause between two training batches). On a GPU the
    steps are asynchronous; over the many steps between two logs the queue's length does not show.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._images = 0
        self._start = 0.0
        self._rate = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._start = time.perf_counter()
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]  # this step's: the schedule moves within

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._seconds += time.perf_counter() - self._start
        self._images += len(batch[0]) * trainer.world_size
        step = trainer.global_step
        if step % trainer.log_every_n_steps or not self._at_step_end(trainer, batch_idx):
            return
        global_batch = len(batch[0]) * trainer.world_size * trainer.accumulate_grad_batches
        metrics = {
            "images_seen": float(step * global_batch),
            "throughput/images_per_s": self._images / self._seconds,
            "optim/lr": self._rate,
        }
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
        self._seconds, self._images = 0.0, 0

    @staticmethod
    def _at_step_end(trainer: Trainer, batch_idx: int) -> bool:
        return (batch_idx + 1) % trainer.accumulate_grad_batches == 0
