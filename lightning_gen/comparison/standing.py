"""Who stands where: models in order, with the range of their ranks and differences to a baseline. No text, no files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lightning_gen.comparison.metrics import BITS, FD, LIKELIHOOD, METRICS, NATS, Metric, ranking_metric
from lightning_gen.comparison.models import Model, difference
from lightning_gen.comparison.records import Record
from lightning_gen.comparison.settings import Disagreement
from lightning_gen.comparison.statistics import Estimate, RankRange, rank_ranges
from lightning_gen.errors import UserError


@dataclass(frozen=True)
class Row:
    """A model in its place.

    Attributes:
        model: whose numbers these are.
        rank: the places that the pairs leave it; None where it has none, or nothing to rank against.
        block: models of different kinds of likelihood stand in blocks of their own, counted from 0.
        baseline: the model that the differences are to; None where there is none.
        differences: {metric's key: this model - baseline}; without those that mean nothing.
    """

    model: Model
    rank: RankRange | None
    block: int
    baseline: Model | None
    differences: dict[str, Estimate] = field(default_factory=dict)

    @property
    def is_baseline(self) -> bool:
        return self.model is self.baseline


@dataclass(frozen=True)
class Standing:
    """A whole comparison.

    Attributes:
        metric: that ranks.
        rows: in their order.
        fixed: floor, closed forms and ceiling, which are not ranked.
        disagreements: why numbers do not compare, where the user wants to see them all the same.
        notes: sentences for below the table.
        pairs: {what the interval of their difference is over: how many pairs of models the ranks are of}.
        columns: the metrics that people asked for; none for those that they usually compare.
    """

    metric: Metric
    rows: list[Row]
    fixed: list[Record] = field(default_factory=list)
    disagreements: list[Disagreement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pairs: Mapping[str, int] = field(default_factory=dict)
    columns: Sequence[Metric] = ()

    @property
    def models(self) -> list[Model]:
        return [row.model for row in self.rows]

    @property
    def records(self) -> list[Record]:
        return [record for model in self.models for record in model.records]

    @property
    def labels(self) -> list[str]:
        """The columns that tell the models apart."""
        return list(dict.fromkeys(label for model in self.models for label in model.labels))

    @property
    def shown(self) -> list[Metric]:
        """The metrics that people compare: that which ranks, then what they asked for."""
        return _shown(self.metric, self.models, self.columns)

    @property
    def measured(self) -> list[Metric]:
        """Every metric that one of the models or baselines has."""
        there = [*self.records, *self.fixed]
        return [metric for metric in METRICS.values() if any(map(metric.measured, there))]

    @property
    def ranked(self) -> bool:
        """Whether one of the rows has a rank."""
        return any(row.rank is not None for row in self.rows)

    def header(self, metric: Metric) -> str:
        """The metric's title, with the name of the features that its records share."""
        record = next((record for record in self.records if metric.measured(record)), None)
        return metric.title if record is None else metric.header(record)

    def comparable(self, metric: Metric) -> bool:
        """Whether the numbers of this metric were all measured alike."""
        return _comparable(metric, self.disagreements)


def stand(
    models: Sequence[Model],
    *,
    rank_by: str | None = None,
    baseline: str | None = None,
    columns: Sequence[str] = (),
    fixed: Sequence[Record] = (),
    disagreements: Sequence[Disagreement] = (),
    notes: Sequence[str] = (),
) -> Standing:
    """Puts models in order.

    Rows are sorted by the mean over seeds. A rank is a range: behind the models that are better by the interval of the
    paired difference, before those that are worse; the intervals that include 0 leave it open. Models without the ranking
    metric come last, without a rank; a likelihood ranks within its kind. Where the ranking metric was measured
    differently nothing is ranked, and the rows stand by their names.

    Args:
        models: to compare.
        rank_by: a key of a metric; FD, bits/dim or nats by default.
        baseline: a model's name, or one of its runs' name or path; the first of each block by default.
        columns: keys of the metrics to show beside that which ranks; by default the distance and the likelihood.
        fixed: rows that are not ranked.
        disagreements: in how they were measured.
        notes: to pass on.

    Raises:
        UserError: nothing to rank by, or a baseline that is not among the models.
    """
    asked = [METRICS[key] for key in columns]
    metric = ranking_metric([record for model in models for record in model.records], rank_by)
    named = None if baseline is None else _named(baseline, models)
    compared = [shown for shown in _shown(metric, models, asked) if _comparable(shown, disagreements)]
    rankable = _comparable(metric, disagreements)
    rows: list[Row] = []
    pairs: Counter[str] = Counter()

    def verdict(one: Model, other: Model) -> int:
        found = difference(one, other, metric)
        pairs[found.over] += 1
        return -found.sign() if metric.lower_is_better else found.sign()

    for number, block in enumerate(_blocks(models, metric) if rankable else [sorted(models, key=_by_name)]):
        ranked = [model for model in block if rankable and not math.isnan(model.mean(metric))]
        places = rank_ranges(ranked, verdict) if len(ranked) > 1 else []
        reference = named or (ranked[0] if ranked else None)
        for place, model in enumerate(block):
            rank = places[place] if place < len(places) else None  # those without a number are the last of a block
            differences = _differences(model, reference, compared)
            rows.append(Row(model, rank, number, reference, differences))
    return Standing(metric, rows, list(fixed), list(disagreements), list(notes), pairs, asked)


def _by_name(model: Model) -> str:
    return model.name


def _named(name: str, models: Sequence[Model]) -> Model:
    found = [model for model in models if model.answers_to(name)]
    if len(found) != 1:
        few = f"{len(found)} of the models answer to it" if found else "no model of the table has this name"
        raise UserError(f"--baseline {name}: {few}; it has {', '.join(model.name for model in models)}")
    return found[0]


def _blocks(models: Sequence[Model], metric: Metric) -> list[list[Model]]:
    """Models that rank against each other, the better first; blocks by their first."""

    def place(model: Model) -> tuple[float, str]:
        mean = model.mean(metric)
        return math.inf if math.isnan(mean) else mean if metric.lower_is_better else -mean, model.name

    blocks: dict[str, list[Model]] = {}
    for model in sorted(models, key=place):
        blocks.setdefault(model.kind if metric.of == LIKELIHOOD else "", []).append(model)
    return list(blocks.values())


def _shown(metric: Metric, models: Sequence[Model], asked: Sequence[Metric]) -> list[Metric]:
    """The ranking metric, then those that were asked for, or the distance and the likelihood; as far as measured."""
    if asked:
        return [each for each in dict.fromkeys([metric, *asked]) if any(model.measured(each) for model in models)]
    likelihood = BITS if any(model.measured(BITS) for model in models) else NATS
    chosen = [FD, likelihood] if metric in (FD, BITS, NATS) else [metric, FD, likelihood]
    return [metric for metric in chosen if any(model.measured(metric) for model in models)]


def _comparable(metric: Metric, disagreements: Sequence[Disagreement]) -> bool:
    return all(found.of != metric.of for found in disagreements)


def _differences(model: Model, baseline: Model | None, metrics: Sequence[Metric]) -> dict[str, Estimate]:
    if baseline is None or model is baseline:
        return {}
    return {
        metric.key: difference(model, baseline, metric)
        for metric in metrics
        if model.measured(metric)
        and baseline.measured(metric)
        and (metric.of != LIKELIHOOD or model.kind == baseline.kind)
    }
