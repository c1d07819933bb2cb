"""Evaluation files as records, and where they lie."""

from __future__ import annotations

import csv
import json
import math
import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_gen.errors import UserError
from lightning_gen.metrics_file import read_metrics

FLOOR, CEILING = "floor", "ceiling"
"""Names of the baselines that every evaluation has: real data, and noise."""

_OF_DATA = ("data", "reference", "extractor", "extractor_digest", "extractor_label")

RUN, BENCHMARK = "default", "benchmark"
"""Names of the evaluations that `evaluate` and `benchmark` write unless told otherwise."""


@dataclass(frozen=True)
class Record:
    """One evaluation: RUN/evaluation/NAME.json, with the terms of each example in NAME.csv beside it.

    Attributes:
        name: of the run.
        file: the JSON.
        metrics: what was measured; a key that is missing was not.
        settings: how; files of older versions have fewer.
        recipe: of the training, without its seed: equal in runs that are seeds of one model.
        seed: of the training; None where it is not known.
        images_per_s: median training speed; NaN where it is not known.
        baselines: {"floor": {"metrics", "settings"}, ...} that were measured together with the run.
    """

    name: str
    file: Path
    metrics: dict[str, float]
    settings: dict[str, Any]
    recipe: str
    seed: int | None = None
    images_per_s: float = math.nan
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Of the likelihood; empty where there is none."""
        return self.settings.get("likelihood_kind") or ""

    @cached_property
    def log_prob(self) -> dict[int, float]:
        """Nats of each example by its index; empty where the file has no CSV beside it."""
        path = self.file.with_suffix(".csv")
        if not path.is_file():
            return {}
        with open(path, newline="") as file:
            try:
                return {int(row["index"]): float(row["log_prob_nats"]) for row in csv.DictReader(file)}
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path} is damaged: evaluate {self.name} again, or delete it") from error


def read_record(file: Path, **given: Any) -> Record:
    """The evaluation in a JSON file, with the training speed from its run's metrics.csv; `given` fields win.

    Raises:
        UserError: the file is not an evaluation.
    """
    try:
        content = json.loads(file.read_text())
        metrics, settings = content["metrics"], content["settings"]
        metrics = {key: math.nan if value is None else float(value) for key, value in metrics.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file} is not an evaluation as `lightning-gen evaluate` writes it") from error
    home = file.parent.parent if file.parent.name == "evaluation" else None
    speed = (
        [value for _, value in read_metrics(home / "metrics.csv").get("throughput/images_per_s", [])] if home else []
    )
    found = {
        "name": home.name if home else settings.get("run") or file.stem,
        "recipe": settings.get("recipe_digest") or str(file),  # of an older file: nothing is known to be its like
        "seed": settings.get("training_seed"),
        "images_per_s": statistics.median(speed) if speed else math.nan,
        "baselines": content.get("baselines") or {},
    }
    return Record(file=file, metrics=metrics, settings=settings, **{**found, **given})


@dataclass(frozen=True)
class Found:
    """What paths led to.

    Attributes:
        records: by their files' order.
        baselines: measured beside them, as often as they were.
        notes: what was left out, as sentences.
    """

    records: list[Record]
    baselines: list[Record]
    notes: list[str]


def find_records(paths: Iterable[str | os.PathLike[str]], name: str | None = None) -> Found:
    """The evaluations that paths mean, each once.

    Args:
        paths: run directories, evaluation files, or benchmarks' directories, which mean all their runs that are done.
        name: of the evaluation in a run; "default", in a benchmark "benchmark", unless given.

    Raises:
        UserError: a path is none of these, or a run has not been evaluated; says what makes the file.
    """
    files: set[Path] = set()
    fixed: set[Path] = set()
    notes = []
    for path in dict.fromkeys(Path(path).resolve() for path in paths):
        if path.is_file():
            files.add(path)
        elif (path / "cells").is_dir():
            done, waiting = _runs_of(path, name or BENCHMARK)
            files.update(done)
            fixed.update((path / "baselines").glob("*.json"))
            if waiting:
                notes.append(f"Left out, for they have no evaluation {name or BENCHMARK!r}: {', '.join(waiting)}.")
        elif path.is_dir():
            files.add(_evaluation(path, name or RUN))
        else:
            raise UserError(f"there is no run, evaluation file or benchmark at {path}")
    records = [read_record(file) for file in sorted(files)]
    beside = [read_record(file, name=file.stem) for file in sorted(fixed)]
    return Found(records, beside + [part for record in records for part in measured_beside(record)], notes)


def _runs_of(benchmark: Path, name: str) -> tuple[list[Path], list[str]]:
    """Evaluations of the runs that are done, and the names of those that are not."""
    runs = sorted(run for run in (benchmark / "cells").iterdir() if run.is_dir())
    files = [run / "evaluation" / f"{name}.json" for run in runs]
    done = [file for file in files if file.is_file()]
    if not done:
        raise UserError(f"{benchmark} is a benchmark without a run that has an evaluation {name!r}")
    return done, [run.name for run, file in zip(runs, files) if not file.is_file()]


def _evaluation(run: Path, name: str) -> Path:
    file = run / "evaluation" / f"{name}.json"
    if file.is_file():
        return file
    others = sorted(other.stem for other in (run / "evaluation").glob("*.json"))
    has = f"; it has {', '.join(others)} (--name {others[0]})" if others else ""
    option = "" if name == RUN else f" --name {name}"
    raise UserError(f"{run} has no evaluation {name!r}: `lightning-gen evaluate {run}{option}` makes it{has}")


def measured_beside(record: Record) -> list[Record]:
    """The floor and the ceiling in a record, as records of their own: what they share with it is the data and the features."""
    shared = {key: record.settings.get(key) for key in _OF_DATA}
    return [
        Record(name, record.file, part.get("metrics") or {}, {**shared, **(part.get("settings") or {})}, recipe=name)
        for name, part in record.baselines.items()
    ]


def distinct(baselines: Iterable[Record]) -> list[Record]:
    """Each baseline once: those of one name, source and number of samples are one. The floor first, the ceiling last."""
    kept: dict[tuple[Any, ...], Record] = {}
    for baseline in baselines:
        how = (baseline.settings.get(key) for key in ("source", "num_samples", *_OF_DATA))
        kept.setdefault((baseline.name, *how), baseline)
    place = {FLOOR: -1, CEILING: 1}
    return sorted(kept.values(), key=lambda baseline: place.get(baseline.name, 0))
