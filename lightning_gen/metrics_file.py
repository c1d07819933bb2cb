"""Reading metrics.csv, with the standard library alone."""

from __future__ import annotations

import csv
import os
from pathlib import Path


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows as text, a missing value as the empty string."""
    with open(path, newline="") as file:
        return [{k: v or "" for k, v in row.items() if k is not None} for row in csv.DictReader(file)]


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """metrics.csv as {metric: [(step, value), ...]}; empty where there is no file yet."""
    series: dict[str, list[tuple[int, float]]] = {}
    for row in read_rows(path) if path.exists() else []:
        for name, value in row.items():
            if name != "step" and value and row["step"].isdigit():
                series.setdefault(name, []).append((int(row["step"]), float(value)))
    return series


def last_step(path: Path) -> int:
    """The step of the last row of metrics.csv, 0 where there is none; reads the file's end only."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            step = file.read().rstrip().rpartition(b"\n")[2].partition(b",")[0]
    except FileNotFoundError:
        return 0
    return int(step) if step.isdigit() else 0
