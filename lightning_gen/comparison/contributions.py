"""logsnr.png: where along log-SNR each model's bound is lost, all models in one plot."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

from matplotlib.figure import Figure

from lightning_gen.comparison.models import Model
from lightning_gen.comparison.records import Record

Curve = list[tuple[float, float, float]]
"""(low, high, nats per unit of log-SNR) of each bin, ascending."""

ABOVE = 4.0
"""Times the median model's peak at which the plot is cut: one bad model would flatten all others."""


def contribution(record: Record) -> Curve:
    """What `evaluate` wrote beside the record; empty where the model has no such curve."""
    file = record.file.with_name(f"{record.file.stem}_logsnr.csv")
    if not file.is_file():
        return []
    with open(file, newline="") as rows:
        columns = ("logsnr_low", "logsnr_high", "nats_per_logsnr")
        return [tuple(float(row[column]) for column in columns) for row in csv.DictReader(rows)]


def contributions(models: Sequence[Model]) -> dict[str, Curve]:
    """{model: the mean of its seeds' curves}; models whose seeds have other bins, or none, are left out."""
    found = {}
    for model in models:
        curves = [contribution(record) for record in model.records]
        bins = {tuple((low, high) for low, high, _ in curve) for curve in curves}
        if len(bins) == 1 and (edges := bins.pop()):
            means = [fmean(values) for values in zip(*([value for _, _, value in curve] for curve in curves))]
            found[", ".join(model.labels.values()) or model.name] = [(*edge, mean) for edge, mean in zip(edges, means)]
    return found


def draw(models: Sequence[Model]) -> Figure | None:
    """The curves over each other; the areas below them, which the legend states, are the diffusion terms in nats."""
    curves = contributions(models)
    if not curves:
        return None
    figure = Figure(figsize=(8, 4.8), dpi=130)
    axes = figure.subplots()
    peaks = []
    for i, (label, curve) in enumerate(curves.items()):
        edges = [curve[0][0], *(high for _, high, _ in curve)]
        values = [value for _, _, value in curve]
        area = sum((high - low) * value for low, high, value in curve if math.isfinite(value))
        style = ("-", "--", ":", "-.")[i // 10 % 4]
        axes.stairs(values, edges, baseline=None, color=f"C{i % 10}", linestyle=style, label=f"{label}  {area:.4g}")
        peaks.append(max((value for value in values if math.isfinite(value)), default=0.0))
    axes.set_ylim(0, min(max(peaks), ABOVE * median(peaks)) * 1.05 or 1.0)
    axes.set_xlabel("log-SNR (noise on the left, data on the right)")
    axes.set_ylabel("nats lost per unit of log-SNR")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, title="area, nats", loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure


def write(models: Sequence[Model], folder: Path) -> None:
    """folder/logsnr.png, where there is something to draw."""
    figure = draw(models)
    if figure is not None:
        figure.savefig(folder / "logsnr.png", bbox_inches="tight")
