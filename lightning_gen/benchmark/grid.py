"""The plan of a benchmark: axes whose values are overrides of one experiment, and the cells they span."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lightning_gen.benchmark.evaluations import Evaluation, across, check_evaluations, check_values, evaluations
from lightning_gen.comparison.metrics import METRICS, named_metric
from lightning_gen.comparison.settings import some
from lightning_gen.errors import UserError
from lightning_gen.evaluation.protocol import leaves
from lightning_gen.refusals import nearest

Overrides = dict[str, Any]
"""Dotted keys of a `fit` config and their values."""


_MEASURING = {"sampler": "model.init_args.sampler", "estimator": "model.init_args.bound", "weights": "ema"}
"""What of a model's config decides how it is measured."""


def _touches(key: str, own: str) -> bool:
    """Whether to set one dotted key sets the other, or a part of it."""
    return f"{key}.".startswith(f"{own}.") or f"{own}.".startswith(f"{key}.")


@dataclass(frozen=True)
class Cell:
    """One model of the grid.

    Attributes:
        name: its directory: the axes' values joined by dashes; the experiment's name where there are no axes.
        values: axis -> name of the value.
        overrides: what it changes in the experiment.
    """

    name: str
    values: dict[str, str]
    overrides: Overrides

    def arguments(self) -> list[str]:
        """The overrides as `fit` takes them on its command line."""
        return [
            f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in self.overrides.items()
        ]


@dataclass(frozen=True)
class Run:
    """One training of a cell, under one seed."""

    cell: Cell
    seed: int

    @property
    def name(self) -> str:
        """Its directory: the cell's name under seed 0, NAME-seedK under another. A cell's name is as many words joined by
        dashes as there are axes, so no two runs share a directory, and seeds can be added to those there are."""
        return self.cell.name if self.seed == 0 else f"{self.cell.name}-seed{self.seed}"

    def arguments(self) -> list[str]:
        """What it changes in the experiment, as `fit` takes it on its command line."""
        return [*self.cell.arguments(), f"--seed_everything={self.seed}"]


MODEL = "model"
"""The column of the models' names where no axis tells them apart."""


@dataclass(frozen=True)
class Entry:
    """A row of the table: a cell, measured in one way."""

    cell: Cell
    evaluation: Evaluation

    @property
    def name(self) -> str:
        """All axes' values joined by dashes."""
        return "-".join([*self.cell.values.values(), *self.evaluation.values.values()])

    @property
    def labels(self) -> dict[str, str]:
        """{column: text}."""
        return {**(self.cell.values or {MODEL: self.cell.name}), **self.evaluation.values}


@dataclass(frozen=True)
class Plan:
    """A benchmark's config.

    Attributes:
        name: of the benchmark; W&B groups its runs by it.
        experiment: config of the experiment that every cell changes, relative to the plan's own file.
        axes: {axis: {value: overrides}}; the cells are all combinations.
        evaluation_axes: {axis: {value: fields of the evaluation}}; every model, trained once, is measured in all
            combinations. They set sampler, nfe, likelihood.estimator, weights, or parts of them by dotted keys.
        overrides: for every cell.
        evaluation: fields of `lightning_gen.evaluation.protocol.Protocol`, and `weights`: ema, ema:DECAY or raw.
        baselines: {row: {"class_path", "init_args"}} of models made from the training set by `initialize`.
        floor: the split of real data whose distance to the reference is the table's floor; None for the data set's own.
        baseline: name of the row that the others are set against, such as cosine-v; None for the first of the table.
        rank_by: fd, bits_per_dim, kid, ...; None for FD where all have it, else the likelihood.
        columns: the metrics that people are shown, such as [fd, precision, recall]; none for FD and the likelihood.
        seeds: of the trainings; every cell is trained under each.
        workers: cells trained at the same time, each in a process of its own.
        threads: of each worker.
    """

    name: str
    experiment: Path
    axes: dict[str, dict[str, Overrides]] = field(default_factory=dict)
    evaluation_axes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    overrides: Overrides = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)
    floor: str | None = None
    baseline: str | None = None
    rank_by: str | None = None
    columns: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    workers: int = 1
    threads: int = 1

    @classmethod
    def read(cls, path: Path) -> Plan:
        """The plan in a YAML file.

        Raises:
            UserError: if it is missing, not YAML, or says something else than a plan.
        """
        try:
            content = yaml.safe_load(path.read_text())
        except FileNotFoundError as error:
            raise UserError(f"there is no benchmark config {path}") from error
        except yaml.YAMLError as error:
            line = getattr(error, "problem_mark", None)
            where = f", line {line.line + 1}" if line is not None else ""
            raise UserError(f"{path}{where} is not YAML: {getattr(error, 'problem', error)}") from error
        if not isinstance(content, dict):
            raise UserError(f"{path} is not a benchmark config: it has no keys")
        known = set(cls.__dataclass_fields__)
        for key in content.keys() - known:
            raise UserError(f"{path} has no key {key!r}{nearest(key, known)}: it has {', '.join(sorted(known))}")
        if not content.get("experiment"):
            raise UserError(f"{path} lacks 'experiment'")
        if not content.get("axes") and not content.get("evaluation_axes"):
            raise UserError(f"{path} lacks 'axes', or 'evaluation_axes'")
        content = {key: value for key, value in content.items() if value is not None}
        experiment = (path.parent / content.pop("experiment")).resolve()
        if not experiment.is_file():
            raise UserError(f"{path}: there is no experiment config {experiment}")
        return cls(**{"name": path.stem, **content, "experiment": experiment})

    def __post_init__(self) -> None:
        if self.workers < 1 or self.threads < 1:
            raise UserError(
                f"a benchmark needs at least one worker and one thread, got {self.workers} and {self.threads}"
            )
        whole = isinstance(self.seeds, list) and all(type(seed) is int and seed >= 0 for seed in self.seeds)
        if not whole or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds must be a list of different whole numbers such as [0, 1, 2], got {self.seeds!r}")
        check_values("axes", self.axes, "overrides such as {model.init_args.x: 1}")
        check_values("evaluation_axes", self.evaluation_axes, "fields of the evaluation such as {sampler.steps: 5}")
        both = [axis for axis in self.evaluation_axes if axis in self.axes or axis == MODEL]
        if both:
            raise UserError(f"evaluation axis {both[0]!r} has the name of another column: rename it")
        check_evaluations(self.evaluation, self.evaluation_axes)
        cells = self.cells()
        if any("seed_everything" in cell.overrides for cell in cells):
            raise UserError(
                "the overrides and axes of a benchmark cannot set seed_everything: name the seeds in `seeds`"
            )
        names = [entry.name for entry in self.entries()]
        if self.baseline is not None and self.baseline not in names:
            raise UserError(
                f"baseline {self.baseline!r} is no row{nearest(str(self.baseline), set(names))}: there are {some(names, 12)}"
            )
        if self.rank_by is not None:
            named_metric(self.rank_by)
        unknown = [name for name in self.columns if name not in METRICS] if isinstance(self.columns, list) else ["?"]
        if unknown:
            raise UserError(f"columns must be a list of {', '.join(METRICS)}, not {self.columns!r}")

    def recipe(self) -> str:
        """Text of the experiment's config and of the files that its keys name."""
        return "\n".join(file.read_text() for file in self.sources())

    def sources(self) -> list[Path]:
        """The experiment's config and the files that its keys name."""
        parts = (yaml.safe_load(self.experiment.read_text()) or {}).values()
        files = [self.experiment.parent / part for part in parts if isinstance(part, str) and part.endswith(".yaml")]
        return [self.experiment, *(file for file in files if file.is_file())]

    def runs(self) -> list[Run]:
        """Every cell under every seed, the first seed of all cells first: a benchmark that is cut has a whole table."""
        return [Run(cell, seed) for seed in self.seeds for cell in self.cells()]

    def entries(self) -> list[Entry]:
        """Every cell in every evaluation."""
        return [Entry(cell, evaluation) for cell in self.cells() for evaluation in self.evaluations()]

    def evaluations(self) -> list[Evaluation]:
        """All ways in which a trained model is measured."""
        return evaluations(self.evaluation, self.evaluation_axes)

    def across(self) -> list[str]:
        """What the axes change of how a model is measured, as `lightning-gen compare --across` names it."""
        keys = {key for values in self.axes.values() for changes in values.values() for key in changes}
        found = {name for name, own in _MEASURING.items() if any(_touches(key, own) for key in keys)}
        evaluating = [changes for values in self.evaluation_axes.values() for changes in values.values()]
        found |= {name for changes in evaluating for key in leaves(changes) if (name := across(key))}
        return [name for name in _MEASURING if name in found]

    def cells(self) -> list[Cell]:
        """All combinations, the first axis slowest; one, of the experiment as it is, where there are no axes."""
        cells = []
        for combination in itertools.product(*(values.items() for values in self.axes.values())):
            names = [str(name) for name, _ in combination]
            overrides = dict(self.overrides)
            for _, changes in combination:
                overrides.update(changes)
            cells.append(Cell("-".join(names) or self.experiment.stem, dict(zip(self.axes, names)), overrides))
        return cells
