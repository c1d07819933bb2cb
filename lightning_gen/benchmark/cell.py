"""One run of a benchmark, a cell under one seed, in a process of its own: train (or go on training), then measure."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_gen.processes import die_with_parent

NAME = "benchmark"
"""Of the evaluation files in a run's directory."""


@dataclass(frozen=True)
class Job:
    """What a worker process is told: paths and primitives only.

    Attributes:
        run: the run's directory.
        fit: arguments of `lightning-gen fit`: --config EXPERIMENT, then the cell's overrides and the seed.
        protocol: fields of `Protocol`.
        recipe: text of the experiment's config files.
        threads: of this process.
        group: of W&B, the benchmark's name.
    """

    run: Path
    fit: list[str]
    protocol: dict[str, Any]
    recipe: str
    threads: int
    group: str

    @property
    def result(self) -> Path:
        """The file whose existence says that the run is done."""
        return self.run / "evaluation" / f"{NAME}.json"

    def training(self) -> str:
        """What the training depends on, as text."""
        return json.dumps([self.fit[2:], self.recipe], sort_keys=True)

    def fingerprint(self) -> str:
        """What the result depends on: a run measured under another is measured again."""
        return json.dumps([self.training(), self.protocol], sort_keys=True)

    def done(self) -> bool:
        """Whether the run has been measured, as this job says."""
        said = _text(self.run / "evaluation" / f"{NAME}.job")
        return self.result.exists() and _measuring(said) == _measuring(self.fingerprint())

    def begun_otherwise(self) -> bool:
        """Whether the run directory holds a training of another config than this job's."""
        said = _text(self.run / "training.job")
        return said is not None and _training(said) != _training(self.training())


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _training(said: str) -> Any:
    """What `Job.training` says, without a seed of 0: that is `fit`'s own, and was not written while there was one seed."""
    try:
        arguments, recipe = json.loads(said)
    except (ValueError, TypeError):
        return said
    return [[each for each in arguments if each != "--seed_everything=0"], recipe]


def _measuring(said: str | None) -> Any:
    """What `Job.fingerprint` says, likewise."""
    try:
        training, protocol = json.loads(said or "")
    except (ValueError, TypeError):
        return said
    return [_training(training), protocol]


@contextmanager
def worker(log: Path) -> Iterator[None]:
    """The life of a worker process: it dies with the benchmark, speaks to `log`, and ends with status 1 if it fails."""
    die_with_parent()  # an orphan would train on beside its successor
    log.parent.mkdir(parents=True, exist_ok=True)
    stream = open(log, "a", buffering=1)  # noqa: SIM115  open until the process ends
    for descriptor in (1, 2):
        os.dup2(stream.fileno(), descriptor)
    sys.stdout = sys.stderr = stream
    try:
        yield
    except BaseException:
        traceback.print_exc()
        stream.flush()
        os._exit(1)
    stream.flush()


def run_job(job: Job) -> None:
    """Trains and measures one run; its output goes to log.txt."""
    with worker(job.run / "log.txt"):
        import torch

        from lightning_gen import loading
        from lightning_gen.cli import run_verb
        from lightning_gen.evaluation.judge import Judge
        from lightning_gen.evaluation.protocol import Protocol
        from lightning_gen.evaluation.subject import subject
        from lightning_gen.run_directory import write_atomically

        torch.set_num_threads(job.threads)
        os.environ.setdefault("WANDB_RUN_GROUP", job.group)
        write_atomically(job.run / "training.job", job.training())
        run_verb("fit", [*job.fit, "--run", str(job.run)])
        checkpoint = loading.read_checkpoint(job.run)
        judge = Judge(loading.load_data(checkpoint), Protocol.of(job.protocol), device_of(job.run))
        module = loading.from_checkpoint(checkpoint, name=str(job.run))
        measured = judge.of_model(module)
        measured.settings.update(subject(checkpoint, job.run))
        measured.timing.update(judge.timing())
        measured.write(job.run / "evaluation", NAME, module.levels)
        write_atomically(job.run / "evaluation" / f"{NAME}.job", job.fingerprint())


def device_of(run: Path) -> Any:
    """Where a run's config has it computed: `accelerator: cpu` is measured on the CPU too."""
    import yaml

    from lightning_gen.evaluation.ranks import pick_device

    accelerator = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["accelerator"]
    return pick_device("cpu" if accelerator == "cpu" else "auto")
