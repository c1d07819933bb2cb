"""The standing of a benchmark's cells, collected from their files."""

from __future__ import annotations

from pathlib import Path

from lightning_gen.benchmark.cell import Job
from lightning_gen.benchmark.grid import Plan
from lightning_gen.comparison.baselines import fitting
from lightning_gen.comparison.models import Model
from lightning_gen.comparison.records import CEILING, FLOOR, Record, read_record
from lightning_gen.comparison.settings import code_notes, disagreements
from lightning_gen.comparison.standing import Standing, stand


def collect(plan: Plan, folder: Path, done: dict[str, Job]) -> Standing:
    """The cells that are done, each the mean of its seeds that are, and the baselines.

    Runs that were measured differently, but for what the axes change on purpose, stand there without ranks.
    """
    runs: dict[str, list[Record]] = {}
    labels = {}
    for run in plan.runs():
        if run.name in done:
            record = read_record(done[run.name].result, name=run.name, recipe=run.cell.name, seed=run.seed)
            runs.setdefault(run.cell.name, []).append(record)
            labels[run.cell.name] = run.cell.values
    records = [record for cell in runs.values() for record in cell]
    models = [Model(name, tuple(cell), labels[name]) for name, cell in runs.items()]
    fixed, notes = fitting(_baselines(plan, folder), records)
    baseline = plan.baseline if plan.baseline in runs else None
    if baseline != plan.baseline:
        notes.append(f"No run of the baseline {plan.baseline} is done: differences are to the first row.")
    return stand(
        models,
        rank_by=plan.rank_by,
        baseline=baseline,
        fixed=fixed,
        disagreements=disagreements(records, plan.across()),
        notes=[*_missing(plan, done), *notes, *code_notes(records)],
    )


def _missing(plan: Plan, done: dict[str, Job]) -> list[str]:
    """A sentence that names the runs that failed, or were cut."""
    missing = [run.name for run in plan.runs() if run.name not in done]
    return [f"Missing, for they failed or are not done: {', '.join(missing)}."] if missing else []


def _baselines(plan: Plan, folder: Path) -> list[Record]:
    files = [folder / "baselines" / f"{name}.json" for name in (FLOOR, *plan.baselines, CEILING)]
    return [read_record(file, name=file.stem) for file in files if file.exists()]
