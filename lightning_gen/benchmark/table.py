"""The standing of a benchmark's cells, collected from their files."""

from __future__ import annotations

from pathlib import Path

from lightning_gen.benchmark.cell import Job
from lightning_gen.benchmark.grid import Plan
from lightning_gen.comparison.models import Model
from lightning_gen.comparison.records import CEILING, FLOOR, Record, read_record
from lightning_gen.comparison.settings import code_notes, disagreements
from lightning_gen.comparison.standing import Standing, stand
from lightning_gen.errors import UserError


def collect(plan: Plan, folder: Path, done: dict[str, Job]) -> Standing:
    """The cells that are done, each the mean of its seeds that are, and the baselines.

    Raises:
        UserError: if runs were measured differently, but for what the axes change on purpose; names the setting.
    """
    runs: dict[str, list[Record]] = {}
    labels = {}
    for run in plan.runs():
        if run.name in done:
            record = read_record(done[run.name].result, name=run.name, recipe=run.cell.name, seed=run.seed)
            runs.setdefault(run.cell.name, []).append(record)
            labels[run.cell.name] = run.cell.values
    records = [record for cell in runs.values() for record in cell]
    found = disagreements(records, plan.across())
    if found:
        raise UserError(f"the cells cannot be ranked: {found[0]}")
    models = [Model(name, tuple(cell), labels[name]) for name, cell in runs.items()]
    return stand(models, fixed=_baselines(plan, folder), notes=code_notes(records))


def _baselines(plan: Plan, folder: Path) -> list[Record]:
    files = [folder / "baselines" / f"{name}.json" for name in (FLOOR, *plan.baselines, CEILING)]
    return [read_record(file, name=file.stem) for file in files if file.exists()]
