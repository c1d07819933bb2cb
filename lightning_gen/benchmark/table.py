"""The standing of a benchmark's cells, collected from their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_gen.benchmark.baselines import file_name
from lightning_gen.benchmark.cell import Job
from lightning_gen.benchmark.evaluations import Evaluation
from lightning_gen.benchmark.grid import Entry, Plan, Run
from lightning_gen.comparison.baselines import fitting
from lightning_gen.comparison.models import Model
from lightning_gen.comparison.records import CEILING, FLOOR, Record, read_record
from lightning_gen.comparison.settings import code_notes, disagreements, some
from lightning_gen.comparison.standing import Standing, stand


def collect(plan: Plan, folder: Path, jobs: dict[str, Job], notes: Sequence[str] = ()) -> Standing:
    """What is measured of the cells, each the mean of its seeds, and the baselines.

    Runs that were measured differently, but for what the axes change on purpose, stand there without ranks.

    Args:
        notes: that stand below the table too.
    """
    rows: dict[str, list[Record]] = {}
    missing = []
    for run in plan.runs():
        lacking = [each.name for each in plan.evaluations()]
        for each in jobs[run.name].measured() if run.name in jobs else []:
            lacking.remove(each.evaluation.name)
            name = Entry(run.cell, each.evaluation).name
            rows.setdefault(name, []).append(read_record(each.file, name=run.name, recipe=name, seed=run.seed))
        missing += _missing(run, lacking, len(plan.evaluations()))
    models = [Model(e.name, tuple(rows[e.name]), e.labels) for e in plan.entries() if e.name in rows]
    records = [record for model in models for record in model.records]
    baselines, found = _baselines(plan, folder)
    fixed, said = fitting(baselines, records)
    notes = [*notes, *found, *said]
    baseline = plan.baseline if plan.baseline in rows else None
    if baseline != plan.baseline:
        notes.append(f"No run of the baseline {plan.baseline} is done: differences are to the first row.")
    if missing:
        notes.insert(0, f"Missing, for they failed or are not done: {', '.join(missing)}.")
    return stand(
        models,
        rank_by=plan.rank_by,
        baseline=baseline,
        columns=plan.columns,
        fixed=fixed,
        disagreements=disagreements(records, plan.across()),
        notes=[*notes, *code_notes(records)],
    )


def _missing(run: Run, lacking: list[str], of_all: int) -> list[str]:
    """What names the evaluations of a run that are not there: the run, if none is."""
    return [run.name] if len(lacking) == of_all else [f"{run.name}:{name}" for name in lacking]


def _baselines(plan: Plan, folder: Path) -> tuple[list[Record], list[str]]:
    """The floor, the closed forms in every evaluation in which they could be measured, the ceiling; and what is missing."""
    plain, found, notes = Evaluation({}, plan.evaluation), [], []
    for name in (FLOOR, *plan.baselines, CEILING):
        ways = plan.evaluations() if name in plan.baselines else [plain]
        there = [way for way in ways if (folder / "baselines" / f"{file_name(name, way)}.json").exists()]
        without = [way.name for way in ways if way not in there]
        if not there and name in plan.baselines:
            there = [plain] if (folder / "baselines" / f"{name}.json").exists() else []
        for way in there:
            file = folder / "baselines" / f"{file_name(name, way)}.json"
            found.append(read_record(file, name=name, labels=way.values))
        if name in plan.baselines and any(without):
            instead = "; it stands as its own sampler draws it" if there == [plain] else ""
            notes.append(f"{name} could not be measured in {some(without)}{instead}: baselines/log.txt says why.")
    return found, notes
