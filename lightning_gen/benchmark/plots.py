"""The plots of a benchmark: heat maps over the grid, training curves, and all sample sheets side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import image as images
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_gen.benchmark import evaluation_curves
from lightning_gen.benchmark.evaluation_curves import moves
from lightning_gen.benchmark.grid import Plan
from lightning_gen.comparison import plot
from lightning_gen.comparison.metrics import BITS, FD, Metric
from lightning_gen.comparison.models import Model
from lightning_gen.comparison.records import Record
from lightning_gen.comparison.standing import Standing
from lightning_gen.metrics_file import read_metrics
from lightning_gen.run_directory import save_figure


def write(standing: Standing, plan: Plan, folder: Path) -> None:
    """A heat map a metric, compare.png, curves.png, evaluation_curves.png and samples.png, as far as there is something
    to draw.
    """
    for metric in (FD, BITS):
        if not all(math.isnan(model.mean(metric)) for model in standing.models) and moving(standing, plan, metric):
            save_figure(heat_map(standing, plan, metric), folder / f"heatmap_{metric.key}.png")
    plot.write(standing, plan.name, folder)
    save_figure(curves(standing.models, plan), folder / "curves.png")
    evaluation_curves.write(standing, plan, folder)
    save_figure(sheets(standing, plan), folder / "samples.png")


def moving(standing: Standing, plan: Plan, metric: Metric) -> list[str]:
    """The axes of the grid, without those evaluation axes along which a metric is the same: a likelihood has no solver."""
    return [*plan.axes, *(axis for axis in plan.evaluation_axes if moves(standing.models, axis, metric))]


def _layout(plan: Plan, axes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Row and column labels: the first axis down, the combinations of the others across."""
    places = [_place(entry.labels, axes) for entry in plan.entries()]
    down, across = (list(dict.fromkeys(labels)) for labels in zip(*places))
    return down, across


def _place(labels: Mapping[str, str], axes: Sequence[str]) -> tuple[str, str]:
    first, *others = axes
    return labels[first], "-".join(labels[axis] for axis in others)


def heat_map(standing: Standing, plan: Plan, metric: Metric) -> Figure:
    """The mean over the grid, coloured by its logarithm where it is positive, with the baselines in the caption."""
    dims = moving(standing, plan, metric)
    down, across = _layout(plan, dims)
    grid = np.full((len(down), len(across)), np.nan)
    for model in standing.models:
        i, j = _place(model.labels, dims)
        grid[down.index(i), across.index(j)] = model.mean(metric)
    figure = Figure(figsize=(1.6 + 1.25 * len(across), 1.4 + 0.75 * len(down)), dpi=130)
    axes = figure.subplots()
    positive = np.nanmin(grid) > 0
    drawn = axes.imshow(np.log(grid) if positive else grid, cmap="viridis_r", aspect="auto")
    low, high = drawn.get_clim()
    for (i, j), value in np.ndenumerate(grid):
        if not np.isnan(value):
            shade = (np.log(value) if positive else value) - low
            dark = shade > 0.55 * max(high - low, 1e-9)
            axes.text(j, i, f"{value:.3g}", ha="center", va="center", color="white" if dark else "black")
    axes.set_xticks(range(len(across)), across)
    axes.set_yticks(range(len(down)), down)
    first, *others = dims
    axes.set_ylabel(first)
    values = {record.name: metric.value(record) for record in standing.fixed if not record.labels}
    baselines = [f"{name} {value:.3g}" for name, value in values.items() if not math.isnan(value)]
    axes.set_xlabel("\n".join([" - ".join(others), "   ".join(baselines)]))
    seeds = max(model.seeds for model in standing.models)
    mean = f", mean of {seeds} seeds" if seeds > 1 else ""
    how = "lower is better" if standing.comparable(metric) else "incomparable"
    axes.set_title(f"{plan.name}: {standing.header(metric)}{mean}, {how}")
    return figure


def curves(models: list[Model], plan: Plan) -> Figure:
    """Training loss and validation bits/dim against images seen, a line a run: the seeds of a model look the same."""
    figure = Figure(figsize=(12, 4.5), dpi=120)
    left, right = figure.subplots(1, 2)
    trained: dict[tuple[str, ...], Model] = {}  # once each, in however many ways it is measured
    for model in models:
        values = tuple(text for label, text in model.labels.items() if label not in plan.evaluation_axes)
        if values not in trained or trained[values].seeds < model.seeds:
            trained[values] = model
    colours = {value: f"C{i}" for i, value in enumerate(dict.fromkeys(first for first, *_ in trained))}
    others = dict.fromkeys(tuple(rest) for _, *rest in trained)
    styles = dict(zip(others, itertools.cycle(["-", "--", ":", "-."])))
    measure = ""
    for values, model in sorted(trained.items()):
        for record in model.records:
            series = read_metrics(record.file.parent.parent / "metrics.csv")
            seen = dict(series.get("images_seen", []))
            look = {
                "color": colours[values[0]],
                "linestyle": styles[values[1:]],
                "label": "-".join(values) if record is model.records[0] else None,
                "linewidth": 1.2 / math.sqrt(model.seeds),
            }
            measure = "val/bits_per_dim" if "val/bits_per_dim" in series else "val/log_prob_nats"
            _curve(left, series.get("train/loss", []), seen, look)
            _curve(right, series.get(measure, []), seen, look)
    left.set(title="train/loss", yscale="log")
    right.set(title=measure)
    if measure == "val/bits_per_dim":
        right.set_yscale("log")
        right.yaxis.set_major_formatter("{x:g}")
        right.yaxis.set_minor_formatter("{x:g}")
    for axes in (left, right):
        axes.set_xlabel("images seen")
        axes.grid(alpha=0.3)
    left.legend(fontsize=7, loc="upper left", bbox_to_anchor=(2.22, 1.0))
    return figure


def _curve(axes: Axes, points: list[tuple[int, float]], seen: dict[int, float], look: dict) -> None:
    """Against images seen: every row that has them says how many a step is."""
    if points and seen:
        images_per_step = max(seen.values()) / max(seen)
        steps, values = zip(*points)
        mark = "." if len(points) == 1 else None  # a line through one point is nothing
        axes.plot([s * images_per_step for s in steps], values, marker=mark, **look)


def sheets(standing: Standing, plan: Plan) -> Figure:
    """Samples of every row's first seed at its place in the grid, the baselines below."""
    dims = [*plan.axes, *plan.evaluation_axes]
    down, across = _layout(plan, dims)
    alone = [record for record in standing.fixed if not record.labels]
    width = max(len(across), len(alone), 1)
    below = [alone] if alone else []
    for name in dict.fromkeys(record.name for record in standing.fixed if record.labels):
        several = [record for record in standing.fixed if record.name == name and record.labels]
        below += [several[start : start + width] for start in range(0, len(several), width)]
    height = len(down) + len(below)
    figure = Figure(figsize=(2.6 * width, 2.85 * height), dpi=110)
    grid = figure.subplots(height, width, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for model in standing.models:
        i, j = _place(model.labels, dims)
        first = model.records[0]
        name = f"{model.name}, seed {first.seed}:" if model.seeds > 1 else model.name
        _sheet(grid[down.index(i), across.index(j)], name, first)
    for row, records in zip(grid[len(down) :], below):
        for axes, record in zip(row, records):
            _sheet(axes, "-".join([record.name, *record.labels.values()]), record)
    figure.tight_layout()
    return figure


def _sheet(axes: Axes, name: str, record: Record) -> None:
    """The picture beside an evaluation, with the distance of these samples."""
    file = record.file.with_suffix(".png")
    if file.exists():
        axes.imshow(images.imread(file), cmap="gray")
    fd = FD.value(record)
    axes.set_title(name if math.isnan(fd) else f"{name}  {fd:.3g}", fontsize=9)
