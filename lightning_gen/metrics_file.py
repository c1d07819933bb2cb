"""Reading metrics.csv, with the standard library alone."""

from __future__ import annotations

import csv
import os
from pathlib import Path


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows as text, a missing value as the empty string. A last line without its end is not yet a row."""
    with open(path, newline="") as file:
        whole = (line for line in file if line.endswith("\n"))
        return [{k: v or "" for k, v in row.items() if k is not None} for row in csv.DictReader(whole)]


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
            size = file.seek(0, os.SEEK_END)
            window = 4096
            while True:  # until the window holds a whole line
                file.seek(max(0, size - window))
                before, line_end, _ = file.read().rpartition(b"\n")
                _, line_start, line = before.rpartition(b"\n")
                if (line_start and line_end) or window >= size:
                    break
                window *= 4
    except FileNotFoundError:
        return 0
    step = line.partition(b",")[0]
    return int(step) if step.isdigit() else 0
