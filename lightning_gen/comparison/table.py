"""A standing as a table: CSV with every digit, Markdown and the terminal for people."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_gen.comparison.explanation import SPEED, explanation
from lightning_gen.comparison.metrics import BITS, FD, FD_INF, LIKELIHOOD, Metric
from lightning_gen.comparison.models import Model
from lightning_gen.comparison.records import Record
from lightning_gen.comparison.standing import Row, Standing
from lightning_gen.run_directory import write_atomically, write_csv

INCOMPARABLE = "incomparable"


@dataclass(frozen=True)
class Column:
    """One column that people read: its header, and its text in a model's row and in a baseline's.

    Attributes:
        number: set to the right, and never broken.
        dispensable: of a terminal that is too narrow for all, the lower is left out the sooner; 0 never.
    """

    header: str
    of_row: Callable[[Row], str]
    of_fixed: Callable[[Record], str] = lambda record: ""
    number: bool = True
    dispensable: int = 0


def columns(standing: Standing) -> list[Column]:
    """Rank, what tells the models apart, what was measured with its difference to the baseline, and of how many."""
    first, *others = standing.labels
    table = []
    if standing.ranked or not standing.comparable(standing.metric):
        table.append(Column("rank", lambda row: _rank(row, standing)))
    table.append(Column(first, lambda row: row.model.labels.get(first, ""), lambda record: record.name, number=False))
    table += [_label(label) for label in others]
    table += _cost(standing)
    for metric in standing.shown:
        table += _of_metric(metric, standing)
        if metric is FD and FD_INF in standing.measured and not standing.columns:
            table.append(_mean(FD_INF))
    if any(not math.isnan(model.images_per_s()) for model in standing.models):
        table.append(Column(SPEED, lambda row: _number(row.model.images_per_s()), dispensable=1))
    if len({model.seeds for model in standing.models}) > 1:
        table.append(Column("seeds", lambda row: str(row.model.seeds)))
    if any(record.settings.get("num_samples") for record in standing.records):
        table.append(Column("N", lambda row: _samples(row.model.records[0]), _samples, dispensable=3))
    return table


def _label(label: str) -> Column:
    """What tells rows apart, of models and of baselines."""
    return Column(
        label, lambda row: row.model.labels.get(label, ""), lambda record: record.labels.get(label, ""), number=False
    )


def _cost(standing: Standing) -> list[Column]:
    """NFE, where the models differ in it and no label says it already."""
    costs = [_evaluations(model.records[0]) for model in standing.models]
    said = [[model.labels.get(label) for model in standing.models] for label in standing.labels]
    if len(set(costs)) == 1 or costs in said:
        return []
    return [
        Column(
            "NFE",
            lambda row: _evaluations(row.model.records[0]),
            lambda record: _evaluations(record) if record.labels else "",
            dispensable=5,
        )
    ]


def _evaluations(record: Record) -> str:
    return "" if record.nfe is None else f"{record.nfe:.4g}"


def _of_metric(metric: Metric, standing: Standing) -> list[Column]:
    """The number, and what it differs by from the baseline's where there is something to set it against."""
    kinds = {model.kind for model in standing.models if model.measured(metric)} if metric.of == LIKELIHOOD else {""}
    shared = next(iter(kinds)) if len(kinds) == 1 else None  # said in the header, else in each cell
    kind = f" ({shared})" if shared else ""
    marked = "" if standing.comparable(metric) else f", {INCOMPARABLE}"
    several = any(model.seeds > 1 for model in standing.models)

    def cell(mean: float, spread: float, own_kind: str) -> str:
        other = metric.of == LIKELIHOOD and own_kind != shared and not math.isnan(mean)
        return _number(mean, spread) + (f" ({own_kind})" if other else "")

    def of_row(row: Row) -> str:
        mean, sd = row.model.summary(metric)
        return cell(mean, sd if several else metric.standard_error(row.model.records[0]), row.model.kind)

    def of_fixed(record: Record) -> str:
        return cell(metric.value(record), math.nan if several else metric.standard_error(record), record.kind)

    found = [Column(f"{standing.header(metric)}{kind}{marked}", of_row, of_fixed)]
    if any(metric.key in row.differences for row in standing.rows):
        spare = 0 if metric is standing.metric else 4
        found.append(Column(f"Δ {metric.title}", lambda row: _difference(row, metric), dispensable=spare))
    return found


def _mean(metric: Metric) -> Column:
    return Column(
        metric.title,
        lambda row: _number(row.model.mean(metric)),
        lambda record: _number(metric.value(record)),
        dispensable=2,
    )


def _rank(row: Row, standing: Standing) -> str:
    if not standing.comparable(standing.metric):
        return INCOMPARABLE
    return "" if row.rank is None else str(row.rank)


def _number(value: float, spread: float = math.nan, sign: str = "") -> str:
    """A value in four significant digits; with a spread in as many as two digits of the spread leave it."""
    if not math.isfinite(value):
        return "" if math.isnan(value) else f"{value:{sign}}"
    if math.isfinite(spread) and spread > 1e-6 * abs(value):  # below that it is rounding
        decimals = _decimals(spread, 2)
        return f"{value:{sign}.{decimals}f} ± {spread:.{decimals}f}"
    return f"{value:{sign}.{_decimals(value, 4)}f}" + (" ± 0" if math.isfinite(spread) else "")


def _decimals(value: float, significant: int) -> int:
    """Digits behind the point that show so many significant ones; none of a value that is long before the point."""
    if value == 0:
        return significant - 1
    exponent = int(f"{value:.{significant - 1}e}".partition("e")[2])  # of the rounded value: 9.996 becomes 10.0
    return max(0, significant - 1 - exponent)


def _difference(row: Row, metric: Metric) -> str:
    if row.is_baseline:
        return "baseline"
    found = row.differences.get(metric.key)
    if found is None or math.isnan(found.mean):
        return ""
    return _number(found.mean, found.half, "+")


def _samples(record: Record) -> str:
    return str(record.settings.get("num_samples") or "")


def markdown(standing: Standing, title: str) -> str:
    """The table and, below it, how it was measured and what it says."""
    table = columns(standing)
    text = [f"# {title}", "", _line(column.header for column in table)]
    text.append("|" + "|".join(" ---: " if column.number else " --- " for column in table) + "|")
    text += [_line(column.of_row(row) for column in table) for row in standing.rows]
    text += [_line(column.of_fixed(record) for column in table) for record in standing.fixed]
    for paragraph in explanation(standing, [column.header for column in table]):
        text += ["", paragraph]
    return "\n".join(text) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def print_table(standing: Standing, title: str) -> None:
    """The table on the terminal, with the explanation below: $COLUMNS wide, or 120, where it is none."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.text import Text

    metric = standing.metric
    if not standing.comparable(metric):
        title = f"{title}: {INCOMPARABLE}, not ranked"
    elif standing.ranked:
        title = (
            f"{title}: ranked by {standing.header(metric)}, {'lower' if metric.lower_is_better else 'higher'} is better"
        )
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120, highlight=False)
    shown = columns(standing)
    unbounded = console.options.update(max_width=10_000)
    while Measurement.get(console, unbounded, _drawn(standing, title, shown)).maximum > console.width:
        spare = [column for column in shown if column.dispensable]
        if not spare:
            break
        shown.remove(min(spare, key=lambda column: column.dispensable))
    console.print(_drawn(standing, title, shown))
    for paragraph in explanation(standing, [column.header for column in shown]):
        console.print(Text(paragraph), style="dim")


def _drawn(standing: Standing, title: str, shown: list[Column]) -> Any:
    """A rich table. Every string goes through `Text`: "[digits]" would be taken for a style."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    for column in shown:
        way: dict[str, Any] = {"justify": "right", "no_wrap": True} if column.number else {"overflow": "fold"}
        drawn.add_column(Text(column.header), **way)
    for row, following in zip(standing.rows, [*standing.rows[1:], None]):
        ends = following is None or following.block != row.block
        drawn.add_row(*(Text(column.of_row(row)) for column in shown), end_section=ends)
    for record in standing.fixed:
        drawn.add_row(*(Text(column.of_fixed(record)) for column in shown), style="dim")
    return drawn


def write_tables(standing: Standing, title: str, folder: Path) -> None:
    """table.csv, a line a row; runs.csv, a line a run; and table.md."""
    header, lines = rows_csv(standing)
    write_csv(folder / "table.csv", header, lines)
    header, lines = runs_csv(standing)
    write_csv(folder / "runs.csv", header, lines)
    write_atomically(folder / "table.md", markdown(standing, title))


def _unless_nan(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def rows_csv(standing: Standing) -> tuple[list[str], list[list[Any]]]:
    """Header and lines: the labels, then fd, bits_per_dim and images_per_s, then what qualifies them, then the rest."""
    several = any(model.seeds > 1 for model in standing.models)
    rest = [metric for metric in standing.measured if metric not in (FD, BITS)]
    fields: list[tuple[str, Callable[[Row], Any], Callable[[Record], Any]]] = []

    def add(name: str, of_row: Callable[[Row], Any], of_fixed: Callable[[Record], Any] = lambda record: None) -> None:
        fields.append((name, of_row, of_fixed))

    for i, label in enumerate(standing.labels):
        add(
            label,
            lambda row, label=label: row.model.labels.get(label),
            lambda record, i=i, label=label: record.labels.get(label) if i else record.name,
        )
    for metric in (FD, BITS):
        add(metric.key, lambda row, m=metric: row.model.mean(m), metric.value)
    add("images_per_s", lambda row: row.model.images_per_s())
    for place in ("low", "high"):
        add(f"rank_{place}", lambda row, place=place: getattr(row.rank, place, None))
    add("seeds", lambda row: row.model.seeds)
    for metric in (FD, BITS):
        add(f"{metric.key}_sd", lambda row, m=metric: row.model.summary(m)[1])
    add(
        "bits_per_dim_se",
        lambda row: BITS.standard_error(row.model.records[0]) if not several else None,
        BITS.standard_error,
    )
    for name in ("likelihood_kind", "num_samples", "nfe", "weights"):
        add(
            f"settings.{name}" if name in standing.labels else name,
            lambda row, n=name: row.model.records[0].settings.get(n),
            lambda record, n=name: record.settings.get(n),
        )
    add("baseline", lambda row: row.baseline.name if row.baseline else None)
    for metric in standing.shown:
        for part in ("mean", "low", "high", "over"):
            name = f"{metric.key}_difference" + ("" if part == "mean" else f"_{part}")
            add(name, lambda row, key=metric.key, part=part: getattr(row.differences.get(key), part, None))
    for metric in rest:
        add(metric.key, lambda row, m=metric: row.model.mean(m), metric.value)
        add(f"{metric.key}_sd", lambda row, m=metric: row.model.summary(m)[1])
    if not all(map(standing.comparable, standing.measured)):
        add("comparable", lambda row: "no")
    lines = [[_unless_nan(of_row(row)) for _, of_row, _ in fields] for row in standing.rows]
    lines += [[_unless_nan(of_fixed(record)) for _, _, of_fixed in fields] for record in standing.fixed]
    return [name for name, _, _ in fields], lines


def runs_csv(standing: Standing) -> tuple[list[str], list[list[Any]]]:
    """Header and lines: the labels, the training seed and the run, then every metric of it."""
    metrics = standing.measured
    header = [*standing.labels, "seed", *(m.key for m in metrics), "images_per_s", "likelihood_kind", "step", "run"]

    def line(model: Model, record: Record) -> list[Any]:
        labels = [model.labels.get(label, "") for label in standing.labels]
        values = [metric.value(record) for metric in metrics]
        how = [record.images_per_s, record.kind, record.settings.get("step"), record.name]
        return [_unless_nan(value) for value in (*labels, record.seed, *values, *how)]

    return header, [line(row.model, record) for row in standing.rows for record in row.model.records]
