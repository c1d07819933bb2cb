"""Runs that are seeds of one model as one: its mean, its spread, and its paired difference to another."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from lightning_gen.comparison.metrics import LIKELIHOOD, NATS, Metric
from lightning_gen.comparison.records import Record, told_apart
from lightning_gen.comparison.settings import MEASURING
from lightning_gen.comparison.statistics import Estimate, mean_and_sd, normal_interval, t_interval, welch_interval
from lightning_gen.errors import UserError


@dataclass(frozen=True)
class Model:
    """One recipe, trained under one or more seeds, measured in one way.

    Attributes:
        name: what tables and flags call it.
        records: of its runs, by rising seed.
        labels: {column: text} that tells it from the others.
    """

    name: str
    records: tuple[Record, ...]
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.records[0].kind

    @property
    def seeds(self) -> int:
        return len(self.records)

    def measured(self, metric: Metric) -> bool:
        return any(map(metric.measured, self.records))

    def summary(self, metric: Metric) -> tuple[float, float]:
        """Mean and standard deviation over the training seeds: NaN as far as there are none."""
        return mean_and_sd([metric.value(record) for record in self.records])

    def mean(self, metric: Metric) -> float:
        return self.summary(metric)[0]

    def images_per_s(self) -> float:
        """Mean training speed of the runs whose speed is known."""
        known = [r.images_per_s for r in self.records if not math.isnan(r.images_per_s)]
        return fmean(known) if known else math.nan

    def answers_to(self, name: str) -> bool:
        """Whether `name` is its own, that of a run of it, or the path of one."""
        path = os.path.realpath(name)
        places = [place for r in self.records for place in (str(r.file), str(r.file.parent.parent))]
        return name == self.name or name in (r.name for r in self.records) or path in places


def grouped(records: Sequence[Record]) -> tuple[list[Model], list[str]]:
    """Runs of one recipe at one step, measured in one way, as one model each; and what had to be kept apart, as sentences.

    Two runs of one recipe *and* one seed are not two draws of training: counting both would make the spread too small.
    Nor is there a reason to drop either. So where a seed comes twice, every run of that recipe is a model of its own.
    """
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: (record.name, str(record.file))):
        how = [record.settings.get(key) for key in ("step", *MEASURING)]
        groups.setdefault(json.dumps([record.recipe, record.kind, how], sort_keys=True, default=str), []).append(record)
    parts: list[tuple[Record, ...]] = []
    notes = []
    for group in groups.values():
        twice = [seed for seed, count in Counter(record.seed for record in group).items() if count > 1]
        if twice:
            parts += [(record,) for record in group]
            names = ", ".join(record.name for record in group)
            notes.append(
                f"Rows of their own: {names} have one recipe, and training seed {twice[0]} twice; a seed counts once."
            )
        else:
            parts.append(tuple(sorted(group, key=lambda record: -1 if record.seed is None else record.seed)))
    return [Model(name, part) for name, part in zip(_names(parts), parts)], notes


def labelled(models: Sequence[Model], columns: dict[str, list[str]]) -> list[Model]:
    """The models with {column: a text for each} before the labels they have."""
    return [
        replace(model, labels={**{column: texts[i] for column, texts in columns.items()}, **model.labels})
        for i, model in enumerate(models)
    ]


def steps(models: Sequence[Model]) -> dict[str, list[str]]:
    """{"step": a text for each} where one recipe was measured at several steps of its training, else {}."""
    found: dict[str, set[str]] = {}
    texts = [str(model.records[0].settings.get("step") or "") for model in models]
    for model, text in zip(models, texts):
        found.setdefault(model.records[0].recipe, set()).add(text)
    return {"step": texts} if any(len(of_one) > 1 for of_one in found.values()) else {}


def _names(parts: Sequence[tuple[Record, ...]]) -> list[str]:
    """The first way to name them, from short to long, under which all differ."""
    ways: tuple[Callable[[tuple[Record, ...]], str], ...] = (
        lambda part: _common([record.name for record in part]),
        lambda part: "+".join(record.name for record in part),
        lambda part: ":".join([_common([record.name for record in part]), _common([r.file.stem for r in part])]),
    )
    for way in ways:
        names = [way(part) for part in parts]
        if len(set(names)) == len(names):
            return names
    apart = iter(told_apart([record for part in parts for record in part]))
    return ["+".join(next(apart) for _ in part) for part in parts]


def _common(names: Sequence[str]) -> str:
    """ "digits" of "digits-1" and "digits-2": the parts with which all begin, or all names where there is none."""
    split = [re.split(r"([-_.])", name) for name in names]
    shared = []
    for column in zip(*split):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return "".join(shared).rstrip("-_.") or "+".join(names)


def difference(a: Model, b: Model, metric: Metric) -> Estimate:
    """a - b, paired where it can be, with its 95 % interval as far as there is one.

    Over the training seeds that both have, two at least: Student's interval of what two recipes differ by. Without two
    common seeds, of two seeds each: Welch's interval. Of one run each, a likelihood is paired over the examples, which
    met the same noise: what these two trained models differ by, whatever another seed would give. Of one run each, a
    distance has no interval.

    Raises:
        UserError: the per-example terms of the two are not those of their metrics, or of other examples.
    """
    of_a = {record.seed: metric.value(record) for record in a.records if record.seed is not None}
    of_b = {record.seed: metric.value(record) for record in b.records if record.seed is not None}
    common = sorted(of_a.keys() & of_b.keys())
    if len(common) > 1:
        return t_interval([of_a[seed] - of_b[seed] for seed in common])
    if min(a.seeds, b.seeds) > 1:
        return welch_interval([metric.value(r) for r in a.records], [metric.value(r) for r in b.records])
    if metric.of == LIKELIHOOD and a.seeds == b.seeds == 1:
        u, v = per_nat(a.records[0], metric), per_nat(b.records[0], metric)
        if not math.isnan(u + v):
            one, other = a.records[0].log_prob, b.records[0].log_prob
            if one.keys() != other.keys():
                raise UserError(f"{a.name} and {b.name} hold the likelihood of different examples: evaluate one again")
            return normal_interval([u * value - v * other[index] for index, value in one.items()])
    return Estimate(a.mean(metric) - b.mean(metric))


def per_nat(record: Record, metric: Metric) -> float:
    """What a nat of an example is in the metric's units; NaN where the examples were not kept, or are not finite.

    Nats and bits/dim differ by a factor that all examples share: it is read off their means.
    """
    mean = record.mean_log_prob
    if not math.isfinite(mean) or mean == 0.0:
        return math.nan
    nats = NATS.value(record)
    if math.isfinite(nats) and not math.isclose(nats, mean, rel_tol=1e-4):
        raise UserError(f"{record.file.with_suffix('.csv')} is not of {record.file.name}: evaluate {record.name} again")
    return metric.value(record) / mean
