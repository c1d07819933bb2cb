"""Which settings two numbers must share to be compared, and the first in which they differ."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_gen.comparison.metrics import LIKELIHOOD, METRICS, SAMPLES
from lightning_gen.comparison.records import Record, told_apart
from lightning_gen.errors import UserError
from lightning_gen.run_directory import flatten

_DATA = ("data", "levels", "reference", "reference_fingerprint", "reference_count", "seed", "device", "weights")
_OF_SAMPLES = (*_DATA, "num_samples", "extractor_digest", "sampler", "guides", "nfe")
_OF_LIKELIHOOD = (*_DATA, "num_examples")
"""`num_examples` where not all of a split were measured, a number of examples of the likelihood."""
_OF_ONE_KIND = ("draws", "estimator")
"""Of the likelihood; numbers of different kinds are never ranked against each other, whatever these are."""
_ENDS = ("logsnr_ends",)
"""Setting on which a diffusion's likelihood depends: the ends of its schedule, unless training moves them."""
CODE = ("version", "commit", "torch", "lightning")
"""In which numbers may differ; it is said below the table."""

ACROSS = {"sampler": ("sampler", "guides", "nfe"), "weights": ("weights",), "estimator": ("estimator",), "ends": _ENDS}
"""What may differ on purpose, because it is what is compared, and the settings that go with it."""

MEASURING = tuple(dict.fromkeys((*_OF_SAMPLES, *_OF_LIKELIHOOD, *_OF_ONE_KIND)))
"""Every setting that a number depends on, but for the model's own."""


@dataclass(frozen=True)
class Disagreement:
    """Two numbers of the same name that were measured differently.

    Attributes:
        of: `SAMPLES` or `LIKELIHOOD`.
        setting: dotted, down to the leaf.
        first: the name of a run, and its value of the setting.
        second: the same of another.
    """

    of: str
    setting: str
    first: tuple[str, Any]
    second: tuple[str, Any]

    def __str__(self) -> str:
        (first, a), (second, b) = self.first, self.second
        return f"{self.setting} is {brief(a)} in {first} and {brief(b)} in {second}"

    @property
    def across(self) -> str | None:
        """The name under which it may differ on purpose."""
        top = self.setting.partition(".")[0]
        return next((name for name, settings in ACROSS.items() if top in settings), None)


def chosen(across: Iterable[str]) -> tuple[str, ...]:
    """The names of what is compared on purpose. Raises UserError for one that cannot be."""
    names = tuple(dict.fromkeys(name.strip() for name in across if name.strip()))
    for name in names:
        if name not in ACROSS:
            raise UserError(f"--across {name}: only {', '.join(ACROSS)} may differ between numbers that are compared")
    return names


def disagreements(records: Sequence[Record], across: Collection[str] = ()) -> list[Disagreement]:
    """For the samples and for the likelihood, the first setting in which they differ and may not; empty where all agree."""
    free = {setting for name in across for setting in ACROSS[name]}
    found = []
    for of, settings in ((SAMPLES, _OF_SAMPLES), (LIKELIHOOD, _OF_LIKELIHOOD)):
        measured = [r for r in records if any(m.of == of and m.measured(r) for m in METRICS.values())]
        groups = [(measured, settings)]
        if of == LIKELIHOOD:
            for kind in {r.kind for r in measured}:
                alike = [r for r in measured if r.kind == kind]
                pinned = [r for r in alike if "logsnr_ends" in r.settings]
                groups += [(alike, _OF_ONE_KIND), (pinned, _ENDS)]
        for group, keys in groups:
            difference = _first_difference(of, group, [key for key in keys if key not in free])
            if difference is not None:
                found.append(difference)
                break
    return found


def _first_difference(of: str, records: Sequence[Record], keys: Iterable[str]) -> Disagreement | None:
    for key in keys:
        for record in records:
            a, b = records[0].settings.get(key), record.settings.get(key)
            if a != b:
                leaf, a, b = _leaf(key, a, b)
                first, second = told_apart([records[0], record])
                return Disagreement(of, leaf, (first, a), (second, b))
    return None


def _leaf(key: str, a: Any, b: Any) -> tuple[str, Any, Any]:
    """The dotted key at which two unequal values differ: of two classes the classes, before their arguments."""
    if isinstance(a, dict) and isinstance(b, dict):
        for name in sorted(a.keys() | b.keys()):
            if a.get(name) != b.get(name):
                return _leaf(f"{key}.{name}", a.get(name), b.get(name))
    return key, a, b


def brief(value: Any) -> str:
    """A value in a line of text: a class without its module, nothing as "none"."""
    if isinstance(value, dict):
        value = value.get("class_path") or json.dumps(value)
    if isinstance(value, float):
        return f"{value:g}"
    text = "none" if value is None else str(value)
    if text.startswith(("lightning_gen.", "datamodules.")):
        text = text.rpartition(".")[2]
    return text if len(text) <= 60 else f"{text[:57]}..."


def columns(records: Sequence[Record], across: Collection[str]) -> dict[str, list[str]]:
    """What differs on purpose, as columns of text: {"sampler": ["solver=DDIM, steps=25", ...], "nfe": [...]}."""
    table = {}
    for setting in (setting for name in across for setting in ACROSS[name]):
        leaves = [_leaves(record.settings.get(setting)) for record in records]
        names = dict.fromkeys(name for leaf in leaves for name in leaf)
        differing = [name for name in names if len({leaf.get(name) for leaf in leaves}) > 1]
        if differing:
            table[setting] = [
                ", ".join(f"{name}={leaf[name]}" if name else leaf[name] for name in differing if name in leaf)
                for leaf in leaves
            ]
    return table


def described(records: Sequence[Record], setting: str) -> str:
    """One setting of all records in text, down to its leaves: "DiffusionSampler, solver DDIM, steps 25 or 50"."""
    values: dict[str, dict[str, None]] = {}
    for record in records:
        for name, value in _leaves(record.settings.get(setting)).items():
            values.setdefault(name, {})[value] = None
    return ", ".join(f"{name} {_either(list(those))}".strip() for name, those in values.items())


def _either(values: Sequence[str]) -> str:
    """ "a", "a or b", "a, b or c"; of many the first and how many more."""
    if len(values) > 8:
        return some(values, 7)
    return " or ".join(part for part in (", ".join(values[:-1]), values[-1]) if part)


def _leaves(value: Any) -> dict[str, str]:
    """{short name: text} of a setting: the class of each object and its arguments."""
    return {_short(key): brief(leaf) for key, leaf in flatten(value).items() if leaf != {}}


def _short(key: str) -> str:
    """ "init_args.solver.class_path" to "solver": how a person calls it."""
    return ".".join(part for part in key.split(".") if part not in ("init_args", "class_path"))


def code_notes(records: Sequence[Record]) -> list[str]:
    """A sentence for each version of the code in which the records differ."""
    notes = []
    names = told_apart(records)
    for key in CODE:
        runs: dict[str, list[str]] = {}
        for record, name in zip(records, names):
            runs.setdefault(brief(record.settings.get(key)), []).append(name)
        if len(runs) > 1:
            told = "; ".join(f"{value} in {some(sorted(those))}" for value, those in sorted(runs.items()))
            notes.append(f"Measured by different code: {key} is {told}.")
    return notes


def some(names: Sequence[str], most: int = 3) -> str:
    """ "a, b, c and 5 more"."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
