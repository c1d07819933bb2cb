"""Where metrics always go: a CSV in the run directory."""

from __future__ import annotations

import csv
import io
import math
import os
import warnings
from argparse import Namespace
from pathlib import Path
from typing import IO, Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.connectors.logger_connector import _LoggerConnector
from lightning.pytorch.utilities import rank_zero_only

from lightning_gen.metrics_file import cut_after, read_columns
from lightning_gen.run_directory import checkpoint_files, set_aside, sync, written_whole


def is_logged(trainer: Trainer, step: int) -> bool:
    """Whether training's metrics of optimizer step `step`, counted from 1, reach the loggers."""
    every = trainer.log_every_n_steps
    return every > 0 and step % every == 0


class _EpochLoop(_TrainingEpochLoop):
    @property
    def _batches_that_stepped(self) -> int:
        """Optimizer steps, with the one that is being made: Lightning and its callbacks log at this count."""
        progress = self.batch_progress.current
        return self.global_step + (progress.ready > progress.processed or self._should_accumulate())

    @_batches_that_stepped.setter
    def _batches_that_stepped(self, value: int) -> None:
        """Ignores Lightning's own count, which begins at 0 and after a resume can be one ahead."""


class _Connector(_LoggerConnector):
    @property
    def _step(self) -> int:
        trainer = self.trainer
        if trainer.training:
            return trainer.fit_loop.epoch_loop._batches_that_stepped
        return trainer.global_step if trainer.state.fn == "fit" else trainer.lightning_module.judged_step

    @property
    def should_update_logs(self) -> bool:
        if not self.trainer.training:
            return super().should_update_logs
        return is_logged(self.trainer, self._step) or self.trainer.should_stop

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Ignores other counts: of micro-batches, of batches of evaluation, and what is logged as "step"."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "step"}, self._step)

    def update_train_step_metrics(self) -> None:
        super().update_train_step_metrics()
        if self.should_update_logs and not self.trainer.fit_loop._should_accumulate():
            for result in self.trainer._results.values():  # Lightning would log it again until there is a new value
                result._forward_cache = None


def count_steps(trainer: Trainer) -> None:
    """Makes Lightning, and so every callback's `log`, count optimizer steps from 1, as this project's metrics are counted."""
    trainer.fit_loop.epoch_loop.__class__ = _EpochLoop
    trainer._logger_connector.__class__ = _Connector


class MetricsCSV(Logger):
    """`metrics.csv`: one row a step, one column a metric, there for every reader as soon as it is logged.

    Unlike Lightning's CSVLogger it keeps what is there: a resumed run drops the rows after the step it resumes from and
    goes on. A further metric of the last step replaces the last row, a new column rewrites the file. A file of another kind
    in its place is set aside, and one that is lost, or a validation that is NaN, is said once.

    Args:
        run: the run directory.
        resume_step: the step of the checkpoint resumed from, or 0.
    """

    def __init__(self, run: Path, resume_step: int = 0) -> None:
        super().__init__()
        self.path = Path(run) / "metrics.csv"
        self._columns: list[str] = ["step"]
        self._last: dict[str, str] = {}  # the last row, and where in the file it begins
        self._offset = 0
        self._said = False  # that a validation is NaN
        if rank_zero_only.rank == 0:
            self._go_on(resume_step)

    def _go_on(self, step: int) -> None:
        columns = read_columns(self.path)
        if columns is not None:
            self._columns = columns
            self._offset, line = cut_after(self.path, step)
            values = next(csv.reader([line.decode(errors="replace")]), [])
            self._last = {name: value for name, value in zip(columns, values) if value}
        elif os.path.lexists(self.path):
            set_aside(self.path)
        elif step and checkpoint_files(self.path.parent):
            warnings.warn(f"there is no {self.path}: its curves begin after step {step}", stacklevel=2)

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def root_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The run's config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {k: repr(float(v)) for k, v in metrics.items() if k != "epoch"}
        if step is None or not row:
            return
        self._say_nan(metrics, step)
        same = self._last.get("step") == str(step)
        self._last = {**(self._last if same else {"step": str(step)}), **row}
        new = sorted(row.keys() - set(self._columns))
        if new or not self.path.exists():
            with written_whole(self.path) as partial, open(partial, "wb") as file:
                self._copy_to(file, new, self._offset if same else None)
                self._write_last(file)
            return
        with open(self.path, "rb+") as file:
            file.seek(self._offset if same else 0, os.SEEK_SET if same else os.SEEK_END)
            self._write_last(file)
            file.truncate()

    def _say_nan(self, metrics: dict[str, float], step: int) -> None:
        nan = [name for name, value in metrics.items() if name.startswith("val/") and math.isnan(float(value))]
        if nan and not self._said:
            self._said = True
            warnings.warn(f"{', '.join(nan)} is NaN at step {step}; it is not said again", stacklevel=2)

    def _copy_to(self, file: IO[bytes], new: list[str], until: int | None) -> None:
        """The rows so far, those before the byte `until`, with empty values of the new columns, under the new header."""
        self._columns += new
        file.write(self._text({name: name for name in self._columns}))
        if not self.path.exists():
            return
        with open(self.path, "rb") as before:
            at = len(before.readline())
            for line in before:
                if until is not None and at >= until:
                    return
                at += len(line)
                file.write(line.rstrip(b"\r\n") + b"," * len(new) + b"\n")

    def _write_last(self, file: IO[bytes]) -> None:
        self._offset = file.tell()
        file.write(self._text(self._last))

    def save(self) -> None:
        """Waits until the disk has the rows: before a checkpoint says that their steps are done."""
        if self.path.exists() and rank_zero_only.rank == 0:
            sync(self.path)

    def _text(self, row: dict[str, str]) -> bytes:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, restval="", lineterminator="\n").writerow(row)
        return text.getvalue().encode()
