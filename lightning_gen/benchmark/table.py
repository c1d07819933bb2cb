"""The ranking table of a benchmark: collected from the cells' files, written as CSV and Markdown."""

from __future__ import annotations

import json
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_gen.benchmark.baselines import CEILING, FLOOR
from lightning_gen.benchmark.cell import Job
from lightning_gen.benchmark.grid import Plan
from lightning_gen.errors import UserError
from lightning_gen.metrics_file import read_metrics
from lightning_gen.run_directory import write_atomically, write_csv

SAME = ("num_samples", "extractor_digest", "reference", "reference_fingerprint", "draws", "seed", "device")
"""Settings in which two numbers must agree to be ranked."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a cell, or a baseline (whose `values` are empty)."""

    name: str
    values: dict[str, str]
    metrics: dict[str, float]
    settings: dict[str, Any]
    images_per_s: float
    folder: Path

    @property
    def baseline(self) -> bool:
        return not self.values

    def metric(self, name: str) -> float:
        """NaN where it was not measured."""
        return self.metrics.get(name, math.nan)


def collect(plan: Plan, folder: Path, done: dict[str, Job]) -> list[Row]:
    """Rows of the cells by rising FD (bits/dim where there is none), then of the baselines.

    Raises:
        UserError: if cells were measured differently; names the setting.
    """
    values = {cell.name: cell.values for cell in plan.cells()}
    cells = []
    for name, job in done.items():
        speed = [value for _, value in read_metrics(job.run / "metrics.csv").get("throughput/images_per_s", [])]
        content = json.loads(job.result.read_text())
        cells.append(
            Row(
                name,
                values[name],
                content["metrics"],
                content["settings"],
                statistics.median(speed) if speed else math.nan,
                job.result.parent,
            )
        )
    for row in cells:
        for key in SAME:
            if row.settings.get(key) != cells[0].settings.get(key):
                raise UserError(
                    f"{row.name} and {cells[0].name} cannot be ranked: {key} is {row.settings.get(key)!r} in the one and "
                    f"{cells[0].settings.get(key)!r} in the other"
                )
    baselines = []
    for name in (FLOOR, *plan.baselines, CEILING):
        file = folder / "baselines" / f"{name}.json"
        if file.exists():
            content = json.loads(file.read_text())
            baselines.append(Row(name, {}, content["metrics"], content["settings"], math.nan, file.parent))
    return sorted(cells, key=_place) + baselines


def _place(row: Row) -> tuple[float, float]:
    """By FD; by bits/dim where the data have no extractor."""
    fd, bits = row.metric("fd"), row.metric("bits_per_dim")
    return math.inf if math.isnan(fd) else fd, math.inf if math.isnan(bits) else bits


def columns(rows: list[Row], plan: Plan) -> list[tuple[str, Any]]:
    """(header, row -> cell) for every column: the axes first, then what was measured."""
    axes = list(plan.axes)
    first = [(axes[0], lambda row: row.values.get(axes[0], row.name))]
    return [
        *first,
        *((axis, lambda row, axis=axis: row.values.get(axis, "")) for axis in axes[1:]),
        ("fd", lambda row: row.metric("fd")),
        ("bits_per_dim", lambda row: row.metric("bits_per_dim")),
        ("bits_per_dim_se", lambda row: row.metric("bits_per_dim_se")),
        ("likelihood_kind", lambda row: row.settings.get("likelihood_kind") or ""),
        ("images_per_s", lambda row: row.images_per_s),
        ("num_samples", lambda row: row.settings["num_samples"] or ""),
        ("nfe", lambda row: row.settings.get("nfe") or ""),
        ("weights", lambda row: row.settings.get("weights", "")),
    ]


def write(rows: list[Row], plan: Plan, folder: Path) -> None:
    """table.csv with every digit, table.md for people."""
    table = columns(rows, plan)
    lines = (["" if isinstance(v := get(row), float) and math.isnan(v) else v for _, get in table] for row in rows)
    write_csv(folder / "table.csv", [header for header, _ in table], lines)
    write_atomically(folder / "table.md", markdown(rows, plan))


def _shown(rows: list[Row], plan: Plan) -> tuple[list[str], list[list[str]]]:
    """Headers and text of the columns that people compare."""
    extractor = rows[0].settings["extractor"] if rows else "?"
    headers = ["rank", *plan.axes, f"FD[{extractor}]" if extractor else "FD", "bits/dim", "images/s", "N"]
    lines = []
    for rank, row in enumerate(rows, 1):
        names = [row.values.get(axis, "") for axis in plan.axes]
        if row.baseline:
            names[0] = row.name
        bits = row.metric("bits_per_dim")
        kind = row.settings.get("likelihood_kind")
        lines.append(
            [
                "" if row.baseline else str(rank),
                *names,
                "" if math.isnan(row.metric("fd")) else f"{row.metric('fd'):.3f}",
                "" if math.isnan(bits) else f"{bits:.3f} ± {row.metric('bits_per_dim_se'):.3f} ({kind})",
                "" if math.isnan(row.images_per_s) else f"{row.images_per_s:.0f}",
                str(row.settings["num_samples"] or ""),
            ]
        )
    return headers, lines


def markdown(rows: list[Row], plan: Plan) -> str:
    """The table and, below it, how it was measured."""
    headers, lines = _shown(rows, plan)
    text = [f"# {plan.name}", "", "| " + " | ".join(headers) + " |", "|" + " --- |" * len(headers)]
    text += ["| " + " | ".join(line) + " |" for line in lines]
    if rows:
        text += ["", explanation(rows)]
    return "\n".join(text) + "\n"


def explanation(rows: list[Row]) -> str:
    """One paragraph that says what the numbers are."""
    s = rows[0].settings
    floor = next((row.settings["source"] for row in rows if row.name == FLOOR), None)
    split = f"{s['data']}'s {s['reference']} split ({s['reference_fingerprint']})"
    distance = (
        f"FD: Frechet distance in the features of `{s['extractor']}` ({s['extractor_digest']}) to {s['reference_count']} "
        f"examples of {split}; its bias falls as 1/N, so only equal N compare."
        if s["extractor"]
        else f"No feature extractor was named for {split}: there is no FD, and bits/dim rank."
    )
    return (
        f"{distance} bits/dim over all {s['reference_count']} examples of that split with {s['draws']} noise draws "
        f"each, ± its standard error over examples; noise is shared by all rows (seed {s['seed']}). images/s is the "
        f"median training speed. Rows without a rank are baselines: floor is {floor}, ceiling is noise; the others are "
        f"closed forms fitted to the training set. Version {s['version']}, torch {s['torch']}, commit {s['commit']}."
    )


def print_table(rows: list[Row], plan: Plan) -> None:
    """The table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    headers, lines = _shown(rows, plan)
    ranked = "FD" if rows and rows[0].settings["extractor"] else "bits/dim"
    table = Table(title=f"{plan.name}: ranked by {ranked}, lower is better")
    for header in headers:
        table.add_column(header, justify="right" if header in ("rank", "images/s", "N") or "FD" in header else "left")
    for row, line in zip(rows, lines):
        table.add_row(*line, style="dim" if row.baseline else None)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
