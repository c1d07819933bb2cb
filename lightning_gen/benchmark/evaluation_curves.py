"""evaluation_curves.png: metrics against a number that the evaluation varies: network evaluations, a guidance's scale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from lightning_gen.benchmark.evaluations import numeric, sets_cost
from lightning_gen.benchmark.grid import Plan
from lightning_gen.comparison.metrics import Metric
from lightning_gen.comparison.models import Model
from lightning_gen.comparison.plot import LOGARITHMIC
from lightning_gen.comparison.records import CEILING, FLOOR, Record
from lightning_gen.comparison.standing import Standing
from lightning_gen.run_directory import save_figure

COST = "network evaluations a sample (NFE)"

Labels = tuple[tuple[str, str], ...]
"""(axis, value) of every axis but that along which a line runs."""


@dataclass(frozen=True)
class Line:
    """A model, or a baseline, along the axis.

    Attributes:
        labels: of what is the same along it; without those of the training in a baseline.
        points: (x, the models or the records there) by rising x.
        baseline: its name; empty for models that were trained.
    """

    labels: Labels
    points: list[tuple[float, Model | Record]]
    baseline: str = ""

    def along(self, metric: Metric) -> list[tuple[float, float, float]]:
        """(x, mean, standard deviation over the seeds or NaN) where it was measured."""
        found = []
        for x, here in self.points:
            mean, sd = here.summary(metric) if isinstance(here, Model) else (metric.value(here), math.nan)
            found.append((x, mean, sd))
        return [point for point in found if math.isfinite(point[1])]


def moves(models: Sequence[Model], axis: str, metric: Metric) -> bool:
    """Whether a metric differs between models that differ in this axis alone."""
    groups: dict[Labels, set[float]] = {}
    for model in models:
        mean = model.mean(metric)
        if not math.isnan(mean):
            groups.setdefault(_without(model.labels, axis), set()).add(mean)
    return any(len(values) > 1 for values in groups.values())


def _without(labels: Mapping[str, str], axis: str) -> Labels:
    return tuple((label, text) for label, text in labels.items() if label != axis)


def write(standing: Standing, plan: Plan, folder: Path) -> None:
    """folder/evaluation_curves.png, where the last evaluation axis of numbers moves a metric that is shown."""
    figure = draw(standing, plan)
    if figure is not None:
        save_figure(figure, folder / "evaluation_curves.png")


def draw(standing: Standing, plan: Plan) -> Figure | None:
    """A panel a metric, those that are shares in one; a line a model, over the last evaluation axis of numbers. Where that
    axis sets the cost of sampling, it is drawn over what that was: a step of one solver costs two of another's.
    """
    axis = next((axis for axis in reversed(plan.evaluation_axes) if numeric(plan.evaluation_axes[axis])), None)
    metrics = [metric for metric in standing.shown if axis is not None and moves(standing.models, axis, metric)]
    if axis is None or not metrics:
        return None
    over_cost = sets_cost(plan.evaluation_axes[axis])
    lines = _lines(standing, axis, over_cost)
    panels = [[metric] for metric in metrics if not metric.share]
    panels += [shares] if (shares := [metric for metric in metrics if metric.share]) else []
    figure = Figure(figsize=(5.4 * len(panels) + 0.6, 4.4), dpi=130)
    looks = _looks(lines, plan)
    for axes, shown in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        _panel(axes, standing, shown, lines, looks)
        axes.set_xlabel(COST if over_cost else axis)
    figure.suptitle(plan.name)
    figure.legend(
        handles=[*_legend(lines, looks, plan), *_reference(standing)],
        fontsize=8,
        loc="upper left",
        bbox_to_anchor=(0.92, 0.9),
    )
    return figure


def _lines(standing: Standing, axis: str, over_cost: bool) -> list[Line]:
    """The models' lines in the order of their names, then the baselines' that were measured along the axis."""
    points: dict[tuple[str, Labels], list[tuple[float, Model | Record]]] = {}
    for here, labels, record in _measured(standing):
        x = record.nfe if over_cost else labels.get(axis)
        if axis in labels and x is not None:
            baseline = here.name if isinstance(here, Record) else ""
            points.setdefault((baseline, _without(labels, axis)), []).append((float(x), here))
    lines = [Line(labels, sorted(found, key=lambda point: point[0]), name) for (name, labels), found in points.items()]
    models = sorted((line for line in lines if not line.baseline), key=lambda line: line.labels)
    return [*models, *(line for line in lines if line.baseline)]


def _measured(standing: Standing) -> Iterator[tuple[Model | Record, Mapping[str, str], Record]]:
    """Models and baselines with their labels, and a record that says how they were measured."""
    yield from ((model, model.labels, model.records[0]) for model in standing.models)
    yield from ((record, record.labels, record) for record in standing.fixed)


def _panel(
    axes: Axes, standing: Standing, metrics: Sequence[Metric], lines: Sequence[Line], looks: Sequence[dict]
) -> None:
    """The first metric's points are filled, the second's hollow."""
    drawn = []
    for metric, fill, strength in zip(metrics, cycle(["full", "none"]), cycle([1.0, 0.5])):
        for line, look in zip(lines, looks):
            found = line.along(metric)
            drawn += found
            if found:
                xs, means, sds = zip(*found)
                bars = None if all(map(math.isnan, sds)) else sds
                axes.errorbar(xs, means, yerr=bars, fillstyle=fill, markersize=5, capsize=3, linewidth=1.3, **look)
        for record in standing.fixed:
            if not record.labels and record.name != CEILING and math.isfinite(metric.value(record)):
                axes.axhline(metric.value(record), alpha=strength, **_level(record))
    _logarithmic(axes, "x", [x for x, _, _ in drawn])
    if axes.get_xscale() == "log":
        axes.set_xticks(_apart(sorted({x for x, _, _ in drawn})))
    if not any(metric.share for metric in metrics):
        _logarithmic(axes, "y", [y for _, y, _ in drawn])
    names = [standing.header(metric) for metric in metrics]
    told = (
        names[0] if len(names) == 1 else ", ".join(f"{n} ({how})" for n, how in zip(names, cycle(["filled", "hollow"])))
    )
    axes.set_ylabel(f"{told}; {'lower' if metrics[0].lower_is_better else 'higher'} is better")
    axes.grid(alpha=0.3, which="both")


def _logarithmic(axes: Axes, which: str, values: Sequence[float]) -> None:
    """Sets an axis of logarithms where the numbers ask for it, with plain numbers beside it."""
    if not values or not (min(values) > 0 and max(values) > LOGARITHMIC * min(values)):
        return
    getattr(axes, f"set_{which}scale")("log")
    steps = (1, 2, 3, 5, 7) if max(values) < 10 * min(values) else (1, 2, 5)
    own = getattr(axes, f"{which}axis")
    own.set_major_locator(LogLocator(subs=steps, numticks=50))
    own.set_major_formatter("{x:g}")
    own.set_minor_formatter(NullFormatter())


def _apart(values: Sequence[float]) -> list[float]:
    """The rising positive values without those whose names would touch that of the one before, on a logarithmic axis."""
    kept: list[float] = []
    for value in values:
        if not kept or math.log(value / kept[-1]) > 0.06 * math.log(values[-1] / values[0]):
            kept.append(value)
    return kept


def _looks(lines: Sequence[Line], plan: Plan) -> list[dict]:
    """Colour by how was sampled, dashes by what was trained; by that the colour where all were sampled in one way.
    Baselines are dotted.
    """

    def part(line: Line, evaluated: bool) -> Labels:
        return tuple(label for label in line.labels if (label[0] in plan.evaluation_axes) == evaluated)

    ways = list(dict.fromkeys(part(line, True) for line in lines))
    cells = list(dict.fromkeys(part(line, False) for line in lines if not line.baseline))
    names = list(dict.fromkeys(line.baseline for line in lines if line.baseline))
    looks = []
    for line in lines:
        way = ways.index(part(line, True))
        if line.baseline:
            number = names.index(line.baseline)
            look = {"linestyle": ":", "marker": "s^Dv"[number % 4], "alpha": 0.75}
            looks.append({**look, "color": f"C{way % 10}" if len(ways) > 1 else str(0.35 + 0.2 * (number % 3))})
        else:
            cell = cells.index(part(line, False))
            dashes = ("-", "--", "-.")[cell % 3] if len(ways) > 1 else "-"
            looks.append({"linestyle": dashes, "marker": "o", "color": f"C{(way if len(ways) > 1 else cell) % 10}"})
    return looks


def _legend(lines: Sequence[Line], looks: Sequence[dict], plan: Plan) -> list[Line2D]:
    """Names of lines: the values of those axes in which lines differ."""
    texts: dict[str, set[str]] = {}
    for line in lines:
        for label, text in line.labels:
            texts.setdefault(label, set()).add(text)
    handles = []
    for line, look in zip(lines, looks):
        told = [text for label, text in line.labels if len(texts[label]) > 1]
        told = told or [text for _, text in line.labels if not line.baseline][:1]
        handles.append(Line2D([], [], label=", ".join([*filter(None, [line.baseline]), *told]), markersize=5, **look))
    return handles


def _level(record: Record) -> dict:
    """Of what is the same along the axis: the floor dashed, a closed form dotted."""
    return {"color": "0.3", "linestyle": "--" if record.name == FLOOR else ":", "linewidth": 1}


def _reference(standing: Standing) -> list[Line2D]:
    fixed = [record for record in standing.fixed if not record.labels and record.name != CEILING]
    return [Line2D([], [], label=record.name, **_level(record)) for record in fixed]
