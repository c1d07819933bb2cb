"""compare.png: every run's number beside the floor and the ceiling, and the paired differences with their intervals;
logsnr.png: where the bounds are lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from lightning_gen.comparison import contributions
from lightning_gen.comparison.metrics import Metric
from lightning_gen.comparison.records import CEILING, FLOOR
from lightning_gen.comparison.standing import Row, Standing
from lightning_gen.comparison.statistics import Estimate
from lightning_gen.run_directory import write_atomically

LOGARITHMIC = 3.0
"""Times the least model's number that the greatest must be for an axis of logarithms."""

NEAR = 0.5
"""Of the models' span: a baseline no farther from it is drawn at its place, the others are named at the edge."""

ABOVE = 3.0
"""Times the median difference, with its interval, at which differences are cut: one bad model would flatten all others."""


FEW = 6
"""Baselines that can be told apart as lines: of more, only the floor and the ceiling are drawn."""


def write(standing: Standing, title: str, folder: Path) -> Path:
    """folder/compare.png, and logsnr.png where there are such curves."""
    import io

    image = io.BytesIO()
    draw(standing, title).savefig(image, bbox_inches="tight", format="png")
    write_atomically(folder / "compare.png", image.getvalue())
    contributions.write(standing.models, folder)
    return folder / "compare.png"


def draw(standing: Standing, title: str) -> Figure:
    """A line of panels a metric: the numbers on the left, what they differ by from the baseline on the right."""
    metrics = standing.shown
    height = 1.0 + 0.3 * (len(standing.rows) + 1)
    figure = Figure(figsize=(11, height * len(metrics) + 0.6), dpi=130, layout="constrained")
    figure.suptitle(title)
    for (left, right), metric in zip(figure.subplots(len(metrics), 2, squeeze=False, sharey="row"), metrics):
        _numbers(left, standing, metric)
        _differences(right, standing.rows, metric)
    return figure


def _numbers(axes: Axes, standing: Standing, metric: Metric) -> None:
    """A dot a run, a bar at the mean, and a line a baseline that is near them."""
    drawn = []
    for place, row in enumerate(standing.rows):
        values = [metric.value(record) for record in row.model.records]
        drawn += values
        axes.plot(values, [place] * len(values), "o", color=f"C{row.block}", markersize=4, alpha=0.6)
        axes.plot([row.model.mean(metric)], [place], "|", color=f"C{row.block}", markersize=14, markeredgewidth=2)
    _names(axes, standing.rows, ranked=metric is standing.metric)
    finite = [value for value in drawn if math.isfinite(value)]
    if finite:
        low, high = _scale(axes, finite, metric)
        _beside(axes, standing, metric, low, high)
        _alike(axes, standing, metric, low, high)
    direction = f"{'lower' if metric.lower_is_better else 'higher'} is better"
    axes.set_xlabel(f"{standing.header(metric)}, {direction if standing.comparable(metric) else 'incomparable'}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, loc="best")


def _scale(axes: Axes, values: Sequence[float], metric: Metric) -> tuple[float, float]:
    """Sets the scale that these numbers ask for; returns between which numbers something is near to them."""
    low, high = min(values), max(values)
    if metric.share or not (low > 0 and high > LOGARITHMIC * low):
        margin = NEAR * (high - low)
        return low - margin, high + margin
    axes.set_xscale("log")
    steps = range(1, 10) if high < 10 * low else (1, 2, 5)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=50))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    margin = (high / low) ** NEAR
    return low / margin, high * margin


def _beside(axes: Axes, standing: Standing, metric: Metric, low: float, high: float) -> None:
    """The baselines that hold for all rows: a line within these limits, and a name with an arrow above the axes where they
    are beyond.
    """
    beyond: dict[str, list[str]] = {"left": [], "right": []}
    fixed = [record for record in standing.fixed if not record.labels]
    if len(fixed) > FEW:
        fixed = [record for record in fixed if record.name in (FLOOR, CEILING)]
    for record, style in zip(fixed, ("--", ":", "-.", (0, (1, 4))) * len(fixed)):
        value = metric.value(record)
        label = f"{record.name} {value:.4g}"
        if low <= value <= high:
            axes.axvline(value, color="0.45", linestyle=style, linewidth=1, label=label)
        elif not math.isnan(value):
            beyond["left" if value < low else "right"].append(label)
    for side, text in (("left", "← {}"), ("right", "{} →")):
        if beyond[side]:
            axes.set_title(text.format(", ".join(beyond[side])), loc=side, fontsize=7, color="0.35")


def _alike(axes: Axes, standing: Standing, metric: Metric, low: float, high: float) -> None:
    """The baselines that were measured in one of the ways that the rows differ in: a mark in the rows of that way."""
    several = [record for record in standing.fixed if record.labels]
    markers = dict(zip(dict.fromkeys(record.name for record in several), "xs^v+" * len(several)))
    for name, marker in markers.items():
        places = [
            (metric.value(record), place)
            for record in several
            for place, row in enumerate(standing.rows)
            if record.name == name and record.labels.items() <= row.model.labels.items()
        ]
        near = [(value, place) for value, place in places if low <= value <= high]
        if near:
            look = {"marker": marker, "color": "0.5", "linestyle": "none", "markersize": 4}
            axes.plot(*zip(*near), label=f"{name}, measured alike", **look)


def _differences(axes: Axes, rows: list[Row], metric: Metric) -> None:
    """The differences, a bar where the interval is known, an arrow where it goes on beyond the axes."""
    found = {place: row.differences[metric.key] for place, row in enumerate(rows) if metric.key in row.differences}
    found = {place: estimate for place, estimate in found.items() if math.isfinite(estimate.mean)}
    left, right = _reach(list(found.values()))
    for place, row in enumerate(rows):
        if row.is_baseline:
            axes.plot([0], [place], "D", color="0.3", markersize=5)
        elif place in found:
            _bar(axes, place, found[place], f"C{row.block}", left, right)
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_xlim(left, right)
    axes.grid(alpha=0.3, axis="x")
    names = dict.fromkeys(row.baseline.name for row in rows if row.baseline)
    axes.set_xlabel(f"{metric.title} less that of {' or '.join(names)}, 95 %" if names else "no difference is taken")


def _ends(estimate: Estimate) -> tuple[float, float]:
    half = estimate.half if math.isfinite(estimate.half) else 0.0
    return estimate.mean - half, estimate.mean + half


def _reach(estimates: Sequence[Estimate]) -> tuple[float, float]:
    """Limits that hold 0 and the differences with their intervals, but for those far beyond most."""
    if not estimates:
        return -1.0, 1.0
    ends = [_ends(estimate) for estimate in estimates]
    most = ABOVE * median(max(abs(low), abs(high)) for low, high in ends)
    left, right = max(min(0.0, *(low for low, _ in ends)), -most), min(max(0.0, *(high for _, high in ends)), most)
    margin = 0.06 * (right - left) or 1.0
    return left - margin, right + margin


def _bar(axes: Axes, place: int, estimate: Estimate, colour: str, left: float, right: float) -> None:
    low, high = _ends(estimate)
    half = estimate.half if math.isfinite(estimate.half) else None
    axes.errorbar([estimate.mean], [place], xerr=half, fmt="o", color=colour, markersize=4, capsize=3)
    for beyond, edge, marker, side in ((low < left, left, "<", "left"), (high > right, right, ">", "right")):
        if beyond:
            axes.plot([edge], [place], marker, color=colour, markersize=6, clip_on=False, zorder=5)
        if beyond and not left <= estimate.mean <= right:
            inward = (8 if side == "left" else -8, 0)
            axes.annotate(
                f"{estimate.mean:+.3g}",
                (edge, place),
                inward,
                textcoords="offset points",
                fontsize=7,
                ha=side,
                va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )


def _names(axes: Axes, rows: list[Row], ranked: bool) -> None:
    """The models down the side, the first on top, with the ranges of their ranks beside the numbers that rank."""
    ranks = [f"  {row.rank}" if ranked and row.rank is not None else "" for row in rows]
    axes.set_yticks(range(len(rows)), [", ".join(row.model.labels.values()) + rank for row, rank in zip(rows, ranks)])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(alpha=0.3)
