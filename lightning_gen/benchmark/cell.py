"""One run of a benchmark, a cell under one seed, in a process of its own: train (or go on training), then measure."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_gen.benchmark.evaluations import NAME, Evaluation
from lightning_gen.benchmark.measurement import Measurement, measure, of_seed, text_of
from lightning_gen.errors import UserError
from lightning_gen.processes import die_with_parent


@dataclass(frozen=True)
class Job:
    """What a worker process is told: paths and primitives only.

    Attributes:
        run: the run's directory.
        fit: arguments of `lightning-gen fit`: --config EXPERIMENT, then the cell's overrides and the seed.
        evaluations: all ways in which the trained model is measured.
        recipe: text of the experiment's config files.
        threads: of this process.
        group: of W&B, the benchmark's name.
    """

    run: Path
    fit: list[str]
    evaluations: list[Evaluation]
    recipe: str
    threads: int
    group: str

    @property
    def log(self) -> Path:
        """What its process says."""
        return self.run / "log.txt"

    def training(self) -> str:
        """What the training depends on, as text."""
        return json.dumps([self.fit[2:], self.recipe], sort_keys=True)

    def measurements(self) -> list[Measurement]:
        """One an evaluation."""
        return [Measurement(self.run / "evaluation", each.file, each, self.training()) for each in self.evaluations]

    def measured(self) -> list[Measurement]:
        """Those that are done."""
        return [each for each in self.measurements() if each.done()]

    def done(self) -> bool:
        """Whether the run has been trained and measured, in all ways, as this job says."""
        return len(self.measured()) == len(self.evaluations)

    def begun_otherwise(self) -> bool:
        """Whether the run directory holds a training of another config than this job's."""
        said = text_of(self.run / "training.job")
        return said is not None and of_seed(said) != of_seed(self.training())


def reason(log: Path) -> str | None:
    """Why the worker that spoke to `log` failed, where the user can mend it."""
    return text_of(_failure(log))


def _failure(log: Path) -> Path:
    return log.with_name("failure.txt")


@contextmanager
def worker(log: Path) -> Iterator[None]:
    """The life of a worker process: it dies with the benchmark, speaks to `log`, and ends with status 1 if it fails; what
    the user can mend then stands beside the log, for `reason`.
    """
    die_with_parent()  # an orphan would train on beside its successor
    log.parent.mkdir(parents=True, exist_ok=True)
    _failure(log).unlink(missing_ok=True)
    stream = open(log, "a", buffering=1)  # noqa: SIM115  open until the process ends
    for descriptor in (1, 2):
        os.dup2(stream.fileno(), descriptor)
    sys.stdout = sys.stderr = stream
    try:
        yield
    except BaseException as error:
        traceback.print_exc()
        stream.flush()
        with suppress(Exception):
            line = _diagnosis(error, "benchmark", [])
            if line is not None:
                _failure(log).write_text(line)
        os._exit(1)
    stream.flush()


def _diagnosis(error: BaseException, verb: str, args: list[str]) -> str | None:
    from lightning_gen.diagnosis import diagnose  # looked up only once something has failed

    return diagnose(error, verb, args)


def _fit(args: list[str]) -> None:
    """`lightning-gen fit` here; what it would say of an error in one line is a UserError."""
    from lightning_gen.cli import run_verb

    try:
        run_verb("fit", args)
    except Exception as error:
        line = _diagnosis(error, "fit", args)
        if line is None:
            raise
        raise UserError(line) from error


def run_job(job: Job) -> None:
    """Trains and measures one run; its output goes to log.txt."""
    with worker(job.log):
        import torch

        from lightning_gen import loading
        from lightning_gen.evaluation.judge import Judge
        from lightning_gen.evaluation.subject import subject
        from lightning_gen.run_directory import write_atomically

        torch.set_num_threads(job.threads)
        os.environ.setdefault("WANDB_RUN_GROUP", job.group)
        write_atomically(job.run / "training.job", job.training())
        _fit([*job.fit, "--run", str(job.run)])
        checkpoint = loading.read_checkpoint(job.run)
        judge = Judge(loading.load_data(checkpoint), job.evaluations[0].protocol, device_of(job.run))

        def load(weights: str) -> Any:
            return loading.from_checkpoint(checkpoint, weights, name=str(job.run))

        about, parts = subject(checkpoint, job.run), job.run / "evaluation" / f".{NAME}.parts"
        failed = measure(job.measurements(), judge, load, about, parts)
        if failed:
            error = next(iter(failed.values()))
            if len(job.evaluations) == 1:
                raise error
            raise UserError(
                f"{len(failed)} of {len(job.evaluations)} evaluations failed ({', '.join(failed)}): {error}"
            )


def device_of(run: Path) -> Any:
    """Where a run's config has it computed: `accelerator: cpu` is measured on the CPU too."""
    import yaml

    from lightning_gen.evaluation.ranks import pick_device

    accelerator = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["accelerator"]
    return pick_device("cpu" if accelerator == "cpu" else "auto")
