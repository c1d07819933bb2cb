"""Evaluation axes: they change how a trained model is measured, so that one training stands in many rows."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_gen.errors import UserError
from lightning_gen.evaluation.protocol import Protocol, changed, leaves

Axes = Mapping[str, Mapping[str, dict[str, Any]]]
"""{axis: {value: what it changes}}."""

_ON_PURPOSE = {"sampler": "sampler", "nfe": "sampler", "likelihood.estimator": "estimator", "weights": "weights"}
"""What an evaluation axis may set, and the name by which `lightning-gen compare --across` lets it differ."""

_COST = ("nfe", "sampler.steps")
"""What sets how many network evaluations a sample costs, and nothing else."""

NAME = "benchmark"
"""With which the names of a benchmark's evaluation files begin."""


@dataclass(frozen=True)
class Evaluation:
    """One way to measure every trained model of a benchmark.

    Attributes:
        values: evaluation axis -> name of the value; empty where there are no such axes.
        fields: of `Protocol`, and "weights": "ema", "ema:DECAY" or "raw".
    """

    values: dict[str, str]
    fields: dict[str, Any]

    @property
    def name(self) -> str:
        """The axes' values joined by dashes."""
        return "-".join(self.values.values())

    @property
    def file(self) -> str:
        """Name of its files in a run's directory, without an ending."""
        return "-".join([NAME, *self.values.values()])

    @property
    def protocol(self) -> Protocol:
        return Protocol.of({key: value for key, value in self.fields.items() if key != "weights"})

    @property
    def weights(self) -> str:
        return self.fields.get("weights", "ema")

    @property
    def of_likelihood(self) -> str:
        """Evaluations in which this is equal share their likelihood."""
        return str((self.weights, self.protocol.likelihood))


def evaluations(fields: dict[str, Any], axes: Axes) -> list[Evaluation]:
    """All combinations, the first axis slowest."""
    if not axes:
        return [Evaluation({}, fields)]
    found = []
    for combination in itertools.product(*(values.items() for values in axes.values())):
        values = {axis: str(name) for axis, (name, _) in zip(axes, combination)}
        found.append(Evaluation(values, changed(fields, *(changes for _, changes in combination))))
    return found


def check_values(kind: str, axes: Any, example: str) -> None:
    """Raises UserError where these are not axes whose values' names can name directories and files."""
    if not isinstance(axes, Mapping):
        raise UserError(f"the {kind} of a benchmark must map the name of each axis to its values, not {axes!r}")
    for axis, values in axes.items():
        if not isinstance(values, Mapping) or not values or not all(isinstance(v, Mapping) for v in values.values()):
            raise UserError(f"axis {axis!r} must map each of its values to {example}")
        for value in values:
            if not re.fullmatch(r"[\w.+]+", str(value)):
                raise UserError(f"{value!r} on axis {axis!r} names a directory: letters, digits, _ . and + only")
        if len({str(value) for value in values}) < len(values):
            raise UserError(f"axis {axis!r} names a value twice: one as a number, one as text")


def check_evaluations(fields: Any, axes: Axes) -> None:
    """Raises UserError for what cannot be measured, and for an axis whose values' numbers would not compare."""
    if not isinstance(fields, Mapping):
        raise UserError(f"the evaluation of a benchmark must map names such as num_samples to values, not {fields!r}")
    found = evaluations(dict(fields), axes)
    for evaluation in found:
        try:
            evaluation.protocol  # noqa: B018  it refuses what it is not
        except UserError as error:
            raise UserError(f"evaluation {evaluation.name}: {error}" if axes else str(error)) from error
        if not isinstance(evaluation.weights, str):
            raise UserError(f"weights are 'raw', 'ema' or 'ema:DECAY', not {evaluation.weights!r}")
    for axis, values in axes.items():
        for key in (key for changes in values.values() for key in leaves(changes)):
            if not across(key):
                raise UserError(
                    f"evaluation axis {axis!r} sets {key}, and numbers that differ in it do not compare: such an axis sets "
                    f"{', '.join(_ON_PURPOSE)}, or parts of them"
                )
    names = {evaluation.file for evaluation in found}
    for name in names:
        if f"{name}_logsnr" in names:
            raise UserError(f"evaluations {name} and {name}_logsnr would share a file: rename one of their values")


def across(key: str) -> str | None:
    """The name under which what a dotted key sets may differ on purpose; None where it may not."""
    return next((name for own, name in _ON_PURPOSE.items() if f"{key}.".startswith(f"{own}.")), None)


def sets_cost(values: Mapping[str, dict[str, Any]]) -> bool:
    """Whether the values of an axis set how many network evaluations a sample costs."""
    return all(any(key in _COST for key in leaves(changes)) for changes in values.values())


def numeric(values: Mapping[str, dict[str, Any]]) -> bool:
    """Whether the values of an axis are two different numbers at least."""
    try:
        numbers = {float(value) for value in values}
    except ValueError:
        return False
    return len(numbers) > 1 and all(map(math.isfinite, numbers))
