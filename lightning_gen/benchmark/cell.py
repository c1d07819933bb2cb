"""One run of a benchmark, a cell under one seed: train (or go on training), then measure, in a process of its own or here."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_gen.attempts import begin_measuring
from lightning_gen.benchmark.evaluations import NAME, Evaluation
from lightning_gen.benchmark.measurement import Measurement, measure, of_seed, text_of
from lightning_gen.benchmark.surroundings import diagnosis, this_process, worker
from lightning_gen.errors import UserError
from lightning_gen.run_lock import holding


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


def run_job(job: Job) -> None:
    """Trains and measures one run in a worker process; its output goes to log.txt, unless that is another process's."""
    try:
        with holding(job.run), worker(job.log):
            train_and_measure(job)
    except UserError:  # it is held: `worker` lets nothing else out
        sys.exit(1)


def run_cell(job: Job) -> None:
    """Trains and measures one run in this process, an element of a Slurm array say; its output goes to log.txt too.

    Told to stop by a signal, a training stops in good order; measuring keeps every part that it has, and simply dies.

    Raises:
        UserError: the run belongs to another config, another process trains it, it was restarted again and again and
            measured nothing more, or what it says of itself failed.
        Interrupted: the training was told to stop.
    """
    from lightning_gen.cluster import stop

    def trained() -> None:
        stop.restore()
        begin_measuring(job.run)

    with holding(job.run), this_process(job.log):  # refused before anything of another process is touched
        train_and_measure(job, trained)


def train_and_measure(job: Job, trained: Callable[[], None] = lambda: None) -> None:
    """Trains, or goes on training, and measures what is not measured yet.

    Args:
        trained: called between the two.
    """
    import torch

    from lightning_gen import loading
    from lightning_gen.evaluation.judge import Judge
    from lightning_gen.evaluation.provenance import provenance
    from lightning_gen.evaluation.subject import subject
    from lightning_gen.run_directory import write_atomically

    provenance()  # of the code that is imported now: the checkout may change as the cell trains
    torch.set_num_threads(job.threads)
    os.environ.setdefault("WANDB_RUN_GROUP", job.group)
    write_atomically(job.run / "training.job", job.training())
    _fit([*job.fit, "--run", str(job.run)])
    trained()
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
        raise UserError(f"{len(failed)} of {len(job.evaluations)} evaluations failed ({', '.join(failed)}): {error}")


def _fit(args: list[str]) -> None:
    """`lightning-gen fit` here; what it would say of an error in one line is a UserError."""
    from lightning_gen.cli import run_verb

    try:
        run_verb("fit", args)
    except Exception as error:
        line = diagnosis(error, "fit", args)
        if line is None:
            raise
        raise UserError(line) from error


def device_of(run: Path) -> Any:
    """Where a run's config has it computed: `accelerator: cpu` is measured on the CPU too."""
    import yaml

    from lightning_gen.evaluation.ranks import pick_device

    accelerator = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["accelerator"]
    return pick_device("cpu" if accelerator == "cpu" else "auto")
