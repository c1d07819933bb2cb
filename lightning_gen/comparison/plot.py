"""compare.png: every run's number beside the floor and the ceiling, and the paired differences with their intervals;
logsnr.png: where the bounds are lost.
"""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_gen.comparison import contributions
from lightning_gen.comparison.metrics import Metric
from lightning_gen.comparison.standing import Row, Standing
from lightning_gen.run_directory import write_atomically


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
    """A dot a run, a bar at the mean, and a line a baseline."""
    drawn = []
    for place, row in enumerate(standing.rows):
        values = [metric.value(record) for record in row.model.records]
        drawn += values
        axes.plot(values, [place] * len(values), "o", color=f"C{row.block}", markersize=4, alpha=0.6)
        axes.plot([row.model.mean(metric)], [place], "|", color=f"C{row.block}", markersize=14, markeredgewidth=2)
    for record, style in zip(standing.fixed, ("--", ":", "-.", (0, (1, 4))) * len(standing.fixed)):
        value = metric.value(record)
        if math.isfinite(value):
            drawn.append(value)
            axes.axvline(value, color="0.45", linestyle=style, linewidth=1, label=f"{record.name} {value:.3g}")
    _names(axes, standing.rows)
    finite = [value for value in drawn if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) > 8 * min(finite):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    direction = f"{'lower' if metric.lower_is_better else 'higher'} is better"
    axes.set_xlabel(f"{standing.header(metric)}, {direction if standing.comparable(metric) else 'incomparable'}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, loc="best")


def _differences(axes: Axes, rows: list[Row], metric: Metric) -> None:
    """The paired differences, a bar where the interval is known."""
    for place, row in enumerate(rows):
        found = row.differences.get(metric.key)
        if row.is_baseline:
            axes.plot([0], [place], "D", color="0.3", markersize=5)
        elif found is not None and math.isfinite(found.mean):
            half = found.half if math.isfinite(found.half) else None
            axes.errorbar([found.mean], [place], xerr=half, fmt="o", color=f"C{row.block}", markersize=4, capsize=3)
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.grid(alpha=0.3, axis="x")
    names = dict.fromkeys(row.baseline.name for row in rows if row.baseline)
    axes.set_xlabel(f"{metric.title} less that of {' or '.join(names)}, 95 %" if names else "no difference is taken")


def _names(axes: Axes, rows: list[Row]) -> None:
    """The models down the side, the first on top, with their ranks."""
    ranks = ["" if row.rank is None else f"  {row.rank}{'=' if row.tied else ''}" for row in rows]
    axes.set_yticks(range(len(rows)), [", ".join(row.model.labels.values()) + rank for row, rank in zip(rows, ranks)])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(alpha=0.3)
