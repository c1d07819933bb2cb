"""Reading metrics.csv, with the standard library alone."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def each_row(path: Path) -> Iterator[dict[str, str]]:
    """The rows one by one, as text, a missing value as the empty string. A last line without its end is not yet a row."""
    with open(path, newline="") as file:
        whole = (line for line in file if line.endswith("\n"))
        for row in csv.DictReader(whole):
            yield {k: v or "" for k, v in row.items() if k is not None}


def read_rows(path: Path) -> list[dict[str, str]]:
    """All rows."""
    return list(each_row(path))


def read_metrics(path: Path, only: str | None = None) -> dict[str, list[tuple[int, float]]]:
    """metrics.csv as {metric: [(step, value), ...]}, or of `only` one metric; empty where there is no file yet."""
    series: dict[str, list[tuple[int, float]]] = {}
    if not path.exists():
        return series
    with open(path, newline="") as file:
        rows = csv.reader(line for line in file if line.endswith("\n"))
        columns = next(rows, ["step"])
        step = columns.index("step")
        wanted = [(k, name) for k, name in enumerate(columns) if k != step and only in (None, name)]
        for row in rows:
            for k, name in wanted:
                if k < len(row) and row[k] and row[step].isdigit():
                    series.setdefault(name, []).append((int(row[step]), float(row[k])))
    return series


def read_columns(path: Path) -> list[str] | None:
    """Names of the columns; None where the file is no metrics.csv that can be gone on with."""
    try:
        if not path.is_file():  # reading a pipe would wait
            return None
        with open(path, "rb") as file:
            header = file.readline(2**20).decode()
    except (OSError, UnicodeDecodeError):
        return None
    columns = next(csv.reader([header]), []) if "\0" not in header else []
    return columns if header.endswith("\n") and columns[:1] == ["step"] and len(set(columns)) == len(columns) else None


def cut_after(path: Path, step: int) -> tuple[int, bytes]:
    """Drops the rows after `step`; reads no more than them. (where the last row begins, the row), or (end of file, b"")."""
    with open(path, "rb+") as file:
        begin = len(file.readline())
        for offset, line in _backwards(file, begin):
            number = line.partition(b",")[0]
            if line.endswith(b"\n") and number.isdigit() and int(number) <= step:
                file.truncate(offset + len(line))
                return offset, line
        file.truncate(begin)
    return begin, b""


def _backwards(file: IO[bytes], begin: int, block: int = 2**16) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of the lines from `begin` to the end of a file, the last first."""
    at, rest = file.seek(0, os.SEEK_END), b""
    while at > begin:
        size = min(block, at - begin)
        at = file.seek(at - size)
        first, *lines = (file.read(size) + rest).splitlines(keepends=True)
        rest, offset = first, at + len(first) + sum(map(len, lines))
        for line in reversed(lines):
            offset -= len(line)
            yield offset, line
    if rest:
        yield begin, rest


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
