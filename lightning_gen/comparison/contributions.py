"""logsnr.png: where along log-SNR each model's bound is lost, all models in one plot."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

from lightning_gen.comparison.models import Model
from lightning_gen.comparison.records import Record
from lightning_gen.logsnr_plot import Loss, overlaid
from lightning_gen.run_directory import save_figure

Curve = list[tuple[float, float, float]]
"""(low, high, nats per unit of log-SNR) of each bin, ascending."""


def contribution(record: Record) -> Curve:
    """What `evaluate` wrote beside the record; empty where the model has no such curve."""
    file = record.file.with_name(f"{record.file.stem}_logsnr.csv")
    if not file.is_file():
        return []
    with open(file, newline="") as rows:
        columns = ("logsnr_low", "logsnr_high", "nats_per_logsnr")
        return [tuple(float(row[column]) for column in columns) for row in csv.DictReader(rows)]


def contributions(models: Sequence[Model]) -> dict[str, Curve]:
    """{model: the mean of its seeds' curves}; models whose seeds have other bins, or none, are left out.

    Models of one curve, which differ in how they were sampled, are one, by the labels that they share.
    """
    found: dict[str, tuple[Curve, list[Model]]] = {}  # by the curve as text, in which NaN equals NaN
    for model in models:
        curves = [contribution(record) for record in model.records]
        bins = {tuple((low, high) for low, high, _ in curve) for curve in curves}
        if len(bins) == 1 and (edges := bins.pop()):
            means = [fmean(values) for values in zip(*([value for _, _, value in curve] for curve in curves))]
            curve = [(*edge, mean) for edge, mean in zip(edges, means)]
            found.setdefault(repr(curve), (curve, []))[1].append(model)
    return {_shared(alike): curve for curve, alike in found.values()}


def _shared(models: Sequence[Model]) -> str:
    """The labels that all have; the name of their run where there are none."""
    first, *others = (model.labels.items() for model in models)
    shared = [label for label in first if all(label in other for other in others)]
    home = models[0].records[0].home
    return ", ".join(text for _, text in shared) or (home.name if home and others else models[0].name)


def draw(models: Sequence[Model]) -> Figure | None:
    """The curves over each other; the areas below them, which the legend states, are the diffusion terms in nats."""
    curves = contributions(models)
    if not curves:
        return None
    losses = {}
    for label, curve in curves.items():
        area = sum((high - low) * value for low, high, value in curve if math.isfinite(value))
        losses[label] = Loss([curve[0][0], *(high for _, high, _ in curve)], [value for _, _, value in curve], area)
    return overlaid(losses, "nats")


def write(models: Sequence[Model], folder: Path) -> None:
    """folder/logsnr.png, where there is something to draw."""
    figure = draw(models)
    if figure is not None:
        save_figure(figure, folder / "logsnr.png")
