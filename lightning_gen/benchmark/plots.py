"""The plots of a benchmark: heat maps over the grid, training curves, and all sample sheets side by side."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
from matplotlib import image as images
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_gen.benchmark.grid import Plan
from lightning_gen.benchmark.table import Row
from lightning_gen.metrics_file import read_metrics


def write(rows: list[Row], plan: Plan, folder: Path) -> None:
    """heatmap_fd.png, heatmap_bits_per_dim.png, curves.png and samples.png, as far as there is something to draw."""
    cells = [row for row in rows if not row.baseline]
    if not cells:
        return
    label = f"FD[{cells[0].settings['extractor']}]"
    for metric, title in (("fd", label), ("bits_per_dim", "bits/dim")):
        if not all(math.isnan(row.metric(metric)) for row in cells):
            heat_map(rows, plan, metric, title).savefig(folder / f"heatmap_{metric}.png", bbox_inches="tight")
    curves(cells).savefig(folder / "curves.png", bbox_inches="tight")
    sheets(rows, plan).savefig(folder / "samples.png", bbox_inches="tight")


def _layout(plan: Plan) -> tuple[list[str], list[str]]:
    """Row and column labels: the first axis down, the combinations of the others across."""
    first, *others = plan.axes
    across = dict.fromkeys("-".join(cell.values[axis] for axis in others) for cell in plan.cells())
    return [str(value) for value in plan.axes[first]], list(across)


def _place(row: Row, plan: Plan) -> tuple[str, str]:
    first, *others = plan.axes
    return row.values[first], "-".join(row.values[axis] for axis in others)


def heat_map(rows: list[Row], plan: Plan, metric: str, title: str) -> Figure:
    """The metric over the grid, coloured by its logarithm where it is positive, with the baselines in the caption."""
    down, across = _layout(plan)
    grid = np.full((len(down), len(across)), np.nan)
    for row in rows:
        if not row.baseline:
            i, j = _place(row, plan)
            grid[down.index(i), across.index(j)] = row.metric(metric)
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
    first, *others = plan.axes
    axes.set_ylabel(first)
    baselines = [f"{r.name} {r.metric(metric):.3g}" for r in rows if r.baseline and not math.isnan(r.metric(metric))]
    axes.set_xlabel("\n".join([" - ".join(others), "   ".join(baselines)]))
    axes.set_title(f"{plan.name}: {title}, lower is better")
    return figure


def curves(cells: list[Row]) -> Figure:
    """Training loss (smoothed) and validation bits/dim against images seen, a line a cell."""
    figure = Figure(figsize=(12, 4.5), dpi=120)
    left, right = figure.subplots(1, 2)
    colours = {value: f"C{i}" for i, value in enumerate(dict.fromkeys(next(iter(r.values.values())) for r in cells))}
    others = dict.fromkeys(tuple(row.values.values())[1:] for row in cells)
    styles = dict(zip(others, itertools.cycle(["-", "--", ":", "-."])))
    for row in sorted(cells, key=lambda row: tuple(row.values.values())):
        series = read_metrics(row.folder.parent / "metrics.csv")
        seen = dict(series.get("images_seen", []))
        look = {
            "color": colours[next(iter(row.values.values()))],
            "linestyle": styles[tuple(row.values.values())[1:]],
            "label": row.name,
            "linewidth": 1.2,
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
        axes.plot([s * images_per_step for s in steps], values, **look)


def sheets(rows: list[Row], plan: Plan) -> Figure:
    """Every cell's samples at its place in the grid, the baselines below."""
    down, across = _layout(plan)
    baselines = [row for row in rows if row.baseline]
    height, width = len(down) + bool(baselines), max(len(across), len(baselines), 1)
    figure = Figure(figsize=(2.6 * width, 2.85 * height), dpi=110)
    grid = figure.subplots(height, width, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for row in rows:
        if row.baseline:
            axes, file = grid[-1, baselines.index(row)], row.folder / f"{row.name}.png"
        else:
            i, j = _place(row, plan)
            axes, file = grid[down.index(i), across.index(j)], row.folder / "benchmark.png"
        if file.exists():
            axes.imshow(images.imread(file), cmap="gray")
        fd = row.metric("fd")
        axes.set_title(row.name if math.isnan(fd) else f"{row.name}  {fd:.3g}", fontsize=9)
    figure.tight_layout()
    return figure
