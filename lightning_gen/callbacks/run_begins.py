"""What a run directory gets when training begins, and not a moment before."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import IO, Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from lightning_gen.errors import UserError
from lightning_gen.loggers import MetricsCSV
from lightning_gen.run_directory import write_atomically


class RunBegins(Callback):
    """Takes the directory for this process, writes the run's id and config, opens its CSV and its W&B run: before the
    first step, and after all that can be refused (sizes, devices, rates) has been, so that a command that was wrong
    leaves the directory as it was.

    Args:
        run: the run directory.
        identity: the run's id.
        step: what it goes on from, 0 from the start; later rows of the CSV are dropped.
        config: the whole config as primitives.

    Raises:
        UserError: when training begins, if another process trains in the directory.
    """

    def __init__(self, run: Path, identity: str, step: int, config: dict[str, Any]) -> None:
        self.run, self.identity, self.step, self.config = run, identity, step, config
        self._lock: IO[str] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._take()
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
        # Lightning sends word of a SIGTERM from rank zero at every micro-batch and waits for the device each time; where
        # all ranks of a job are told to stop, each is told by the system.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None

    def _take(self) -> None:
        """Holds `RUN/lock` until this process ends, however it ends. Where files cannot be locked there is no check."""
        self.run.mkdir(parents=True, exist_ok=True)
        lock = open(self.run / "lock", "a")  # noqa: SIM115  open as long as the run is trained
        with contextlib.suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.close()
                raise UserError(
                    f"another process trains in {self.run}: wait for its end, or give another --run"
                ) from error
            except OSError:  # a file system that knows no locks
                pass
        self._lock = lock

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._release()
