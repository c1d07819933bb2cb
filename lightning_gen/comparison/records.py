"""Evaluation files as records, and where they lie."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_gen.errors import UserError
from lightning_gen.metrics_file import read_metrics
from lightning_gen.run_directory import unsealed

FLOOR, CEILING = "floor", "ceiling"
"""Names of the baselines that every evaluation has: real data, and noise."""

DATA_SETTINGS = (
    *("data", "levels", "reference", "reference_count", "reference_fingerprint", "seed", "device"),
    *("extractor", "extractor_digest", "extractor_label"),
)
"""Settings that a run shares with the floor and the ceiling measured beside it."""

SPEED = "throughput/images_per_s"

RUN, BENCHMARK = "default", "benchmark"
"""Names of the evaluations that `evaluate` and `benchmark` write unless told otherwise; a benchmark with evaluation axes
writes several, "benchmark-VALUE-VALUE"."""


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
        examples_sha256: of the CSV; None where it is not known.
        labels: {column: text} of a row without a rank that is one of several of its name: how it was measured.
    """

    name: str
    file: Path
    metrics: dict[str, float]
    settings: dict[str, Any]
    recipe: str
    seed: int | None = None
    images_per_s: float = math.nan
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    examples_sha256: str | None = None

    @property
    def kind(self) -> str:
        """Of the likelihood; empty where there is none."""
        return self.settings.get("likelihood_kind") or ""

    @property
    def nfe(self) -> float | None:
        """Network evaluations a sample, their mean where each had its own; None where it is not known."""
        nfe = self.settings.get("nfe")
        return self.settings.get("nfe_mean") if nfe is None else nfe

    @property
    def home(self) -> Path | None:
        """The run's directory; None for a file that lies in none."""
        return self.file.parent.parent if self.file.parent.name == "evaluation" else None

    @cached_property
    def log_prob(self) -> dict[int, float]:
        """Nats of each example by its index; empty where the file has no CSV beside it."""
        path = self.file.with_suffix(".csv")
        if not path.is_file():
            return {}
        content = path.read_bytes()
        try:
            if self.examples_sha256 not in (None, hashlib.sha256(content).hexdigest()):
                raise ValueError("it is not what was measured with the JSON")
            header, *rows = csv.reader(content.decode().splitlines())
            index, value = header.index("index"), header.index("log_prob_nats")
            return {int(row[index]): float(row[value]) for row in rows}
        except (IndexError, ValueError, csv.Error) as error:
            raise UserError(f"{path} is damaged: evaluate {self.name} again, or delete it") from error

    @cached_property
    def mean_log_prob(self) -> float:
        """Nats; NaN where the examples were not kept, or are not all finite."""
        values = self.log_prob.values()
        return statistics.fmean(values) if values and all(map(math.isfinite, values)) else math.nan


def read_record(file: Path, **given: Any) -> Record:
    """The evaluation in a JSON file, with the training speed from its run's metrics.csv; `given` fields win.

    Raises:
        UserError: the file is not an evaluation.
    """
    try:
        content = unsealed(json.loads(file.read_text()))
        metrics, settings = _measured(content)
        baselines = dict(content.get("baselines") or {})
        beside = {label: dict(zip(("metrics", "settings"), _measured(part))) for label, part in baselines.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file} is not an evaluation as `lightning-gen evaluate` writes it, or is damaged") from error
    home = file.parent.parent if file.parent.name == "evaluation" else None
    found = {
        "name": home.name if home else settings.get("run") or file.stem,
        "recipe": settings.get("recipe_digest") or str(file),  # of an older file: nothing is known to be its like
        "seed": settings.get("training_seed"),
        "images_per_s": _speed(home) if home else math.nan,
        "baselines": beside,
        "examples_sha256": content.get("examples_sha256"),
    }
    return Record(file=file, metrics=metrics, settings=settings, **{**found, **given})


def _measured(content: dict[str, Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """The numbers, NaN for null, and the settings; raises as Python does where they are neither."""
    numbers = {key: math.nan if value is None else float(value) for key, value in content["metrics"].items()}
    return numbers, {**content["settings"]}


def _speed(run: Path) -> float:
    """Median training speed in images/s; NaN where it is not known."""
    try:
        speeds = [value for pairs in read_metrics(run / "metrics.csv", SPEED).values() for _, value in pairs]
    except (ValueError, KeyError, csv.Error) as error:
        raise UserError(f"{run / 'metrics.csv'} is damaged: mend it, or move it away") from error
    return statistics.median(speeds) if speeds else math.nan


@dataclass(frozen=True)
class Found:
    """What paths led to.

    Attributes:
        records: by their files' order.
        baselines: measured beside them or given, as often as they were.
        notes: what was left out, as sentences.
    """

    records: list[Record]
    baselines: list[Record]
    notes: list[str]


def find_records(paths: Iterable[str | os.PathLike[str]], name: str | None = None) -> Found:
    """The evaluations that paths mean, each once.

    Args:
        paths: run directories, evaluation files, or benchmarks' directories, which mean all their runs that are done.
        name: of the evaluation in a run; "default", in a benchmark all that it measured, unless given.

    Raises:
        UserError: a path is none of these, or a run has not been evaluated; says what makes the file.
    """
    files: set[Path] = set()
    notes = []
    for path in dict.fromkeys(Path(path).resolve() for path in paths):
        if path.is_file():
            files.add(path)
        elif (path / "cells").is_dir():
            done, said = _runs_of(path, name)
            files.update(done)
            notes += said
        elif path.is_dir():
            files.add(_evaluation(path, name or RUN))
        else:
            raise UserError(f"there is no run, evaluation file or benchmark at {path}")
    read = [read_record(file) for file in sorted(files)]
    records = [record for record in read if not record.settings.get("source")]
    if not records:
        raise UserError(f"{' and '.join(record.name for record in read)}: rows of data without a model are no runs")
    beside = sorted({file for record in records for file in _baselines_of(record)})
    records = [record for record in records if record.file not in beside]  # given by its path as well
    fixed = [read_record(file, name=file.stem) for file in beside]
    fixed += [record for record in read if record.settings.get("source") and record.file not in beside]
    return Found(records, fixed + [part for record in records for part in measured_beside(record)], notes)


def _baselines_of(record: Record) -> Iterable[Path]:
    """The files of its benchmark's baselines, where its run is a benchmark's."""
    if record.home is None or record.home.parent.name != "cells":
        return []
    return (record.home.parent.parent / "baselines").glob("*.json")


def _runs_of(benchmark: Path, name: str | None) -> tuple[list[Path], list[str]]:
    """Evaluations of the runs that are done, and what is missing, as sentences."""
    runs = sorted(run for run in (benchmark / "cells").iterdir() if run.is_dir())
    done = {run: _own_evaluations(run) if name is None else _has(run, name) for run in runs}
    found = {each for names in done.values() for each in names}
    if not found:
        raise UserError(f"{benchmark} is a benchmark without a run that has an evaluation {name or BENCHMARK!r}")
    none = [run.name for run in runs if not done[run]]
    notes = [f"Left out, for they have no evaluation {name or BENCHMARK!r}: {', '.join(none)}."] if none else []
    for each in sorted(found):
        lacking = [run.name for run in runs if done[run] and each not in done[run]]
        notes += [f"There is no evaluation {each!r} of {', '.join(lacking)}."] if lacking else []
    return [run / "evaluation" / f"{each}.json" for run in runs for each in sorted(done[run])], notes


def _has(run: Path, name: str) -> set[str]:
    return {name} if (run / "evaluation" / f"{name}.json").is_file() else set()


def _own_evaluations(run: Path) -> set[str]:
    """Names of what a benchmark has measured of a run."""
    files = (run / "evaluation").glob(f"{BENCHMARK}*.json")
    return {file.stem for file in files if file.stem.partition("-")[0] == BENCHMARK}


def _evaluation(run: Path, name: str) -> Path:
    file = run / "evaluation" / f"{name}.json"
    if file.is_file():
        return file
    if not any((run / part).exists() for part in ("config.yaml", "checkpoints", "evaluation")):
        meant = f", did you mean {run.parent}?" if run.name in ("evaluation", "cells", "baselines") else ""
        raise UserError(f"{run} is neither a run nor a benchmark{meant}")
    others = sorted(other.stem for other in (run / "evaluation").glob("*.json"))
    has = f"; it has {', '.join(others)} (--name {others[0]})" if others else ""
    option = "" if name == RUN else f" --name {name}"
    raise UserError(f"{run} has no evaluation {name!r}: `lightning-gen evaluate {run}{option}` makes it{has}")


def measured_beside(record: Record) -> list[Record]:
    """The floor and the ceiling in a record, as records of their own: what they share with it is the data and the features."""
    shared = {key: record.settings.get(key) for key in DATA_SETTINGS}
    return [
        Record(name, record.file, part.get("metrics") or {}, {**shared, **(part.get("settings") or {})}, recipe=name)
        for name, part in record.baselines.items()
    ]


def told_apart(records: Sequence[Record]) -> list[str]:
    """The records' names, the shortest way in which all differ: the run's, with the evaluation's, with the folder's."""
    names = [record.name for record in records]
    if len(set(names)) < len(names):
        names = [f"{record.name}:{record.file.stem}" for record in records]
    if len(set(names)) < len(names):
        places = [record.home or record.file.with_suffix("") for record in records]
        root = os.path.commonpath([place.parent for place in places])
        names = [os.path.relpath(place, root) for place in places]
    if len(set(names)) < len(names):
        names = [f"{name}:{record.file.stem}" for name, record in zip(names, records)]
    return names
