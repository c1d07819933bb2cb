"""What a run directory gets when training begins, and not a moment before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_gen import run_lock
from lightning_gen.attempts import begin_attempt
from lightning_gen.cluster import slurm
from lightning_gen.errors import AGAIN, Interrupted
from lightning_gen.loggers import MetricsCSV
from lightning_gen.run_directory import checkpoint_files, write_atomically
from lightning_gen.run_entry import Entry
from lightning_gen.wandb_run import WandbRun, how_to_send


class RunBegins(Callback):
    """Takes the directory for this process, writes the run's id and config, opens its CSV and its W&B run: before the
    first step, and after all that can be refused (sizes, devices, rates) has been, so that a command that was wrong
    leaves the directory as it was.

    Args:
        run: the run directory.
        entry: what was found in it; rows of the CSV after its step are dropped.
        config: the whole config as primitives.

    Raises:
        UserError: when training begins, if another process trains in the directory.
        Interrupted: one has, and has gone on, since `entry` was made.
    """

    def __init__(self, run: Path, entry: Entry, config: dict[str, Any]) -> None:
        self.run, self.identity, self.step, self.config = run, entry.identity, entry.step, config
        self._newest = entry.newest
        self.taken = False

    def release(self) -> None:
        """Gives the directory back: when all is said of the run, its last words to W&B too."""
        if self.taken:
            run_lock.release(self.run)
            self.taken = False

    def _still_the_newest(self) -> None:
        """What was found before the lock was had may be of the past: of a job that was still leaving, say."""
        files = checkpoint_files(self.run)
        if files and files[0].name != self._newest:
            raise Interrupted(
                f"{self.run} has gone on to {files[0].name} meanwhile: the same command goes on from there", AGAIN
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            run_lock.take(self.run)
            self.taken = True
            self._still_the_newest()
            begin_attempt(self.run, self.step, trainer.world_size)
            write_atomically(self.run / "run_id", self.identity + "\n")
            write_atomically(self.run / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))
            if self.step:
                print(f"{self.run} goes on from step {self.step}")
            for config in trainer.lr_scheduler_configs:
                for remark in getattr(config.scheduler, "remarks", list)():
                    print(remark)
        others = list(trainer.loggers)
        trainer.loggers = [MetricsCSV(self.run, self.step), *others]
        for logger in others:
            cluster = {"ranks": trainer.world_size, "nodes": trainer.num_nodes, "slurm_job": slurm.job_id()}
            if trainer.enable_autolog_hparams:
                logger.log_hyperparams({**self.config, "cluster": cluster})
            if isinstance(logger, WandbRun):
                logger.catch_up(self.run, self.step)
                if logger.offline and trainer.is_global_zero:
                    print(how_to_send(self.run))
        # Lightning sends word of a SIGTERM from rank zero at every micro-batch and waits for the device each time; where
        # all ranks of a job are told to stop, each is told by the system.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
