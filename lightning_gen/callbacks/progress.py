"""One line of progress: steps done, loss, speed, time left."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from lightning_gen.loggers import is_logged


class Progress(ProgressBar):
    """A rich bar over optimizer steps on a terminal; elsewhere a line of text every `every_s` seconds.

    It shows the metrics of the last logged step and never reads one from the device itself.

    Args:
        every_s: seconds between lines where standard output is not a terminal.
    """

    def __init__(self, every_s: float = 30.0) -> None:
        super().__init__()
        self.every_s = every_s
        self._bar = self._task = None
        self._spoken = 0.0
        self._began = (0.0, 0)
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = (time.monotonic(), trainer.global_step)
        self._spoken = time.monotonic()
        if not (self._enabled and trainer.is_global_zero and sys.stdout.isatty()):
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = "training", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        self._bar = Bar(*columns, TextColumn("{task.fields[note]}"))
        total = trainer.max_steps if trainer.max_steps > 0 else None
        self._task = self._bar.add_task("", total=total, completed=trainer.global_step, note="")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not (self._enabled and trainer.is_global_zero):
            return
        step = trainer.global_step
        if self._bar is not None:
            if is_logged(trainer, step):
                self._bar.update(self._task, completed=step, note=self._note(trainer))
            else:
                self._bar.update(self._task, completed=step)
        elif time.monotonic() - self._spoken > self.every_s:
            self._spoken = time.monotonic()
            rate = (step - self._began[1]) / (time.monotonic() - self._began[0])
            end, left = "", ""
            if trainer.max_steps > 0:
                end = f" of {trainer.max_steps}"
                left = f", {(trainer.max_steps - step) / rate:.0f} s left" if rate > 0 else ""
            print(f"step {step}{end}, {rate:.1f} steps/s{left}  {self._note(trainer)}", flush=True)

    @staticmethod
    def _note(trainer: Trainer) -> str:
        shown = {
            k: v for k, v in trainer.callback_metrics.items() if k in ("train/loss", "val/loss", "val/bits_per_dim")
        }
        return "  ".join(f"{name} {float(value):.4g}" for name, value in shown.items())

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()
