"""lightning-gen benchmark: train, measure and rank a grid of models."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_gen.benchmark import table
from lightning_gen.benchmark.cell import Job, reason, run_job
from lightning_gen.benchmark.display import Display
from lightning_gen.benchmark.grid import Plan
from lightning_gen.comparison.standing import Standing
from lightning_gen.comparison.table import print_table, write_tables
from lightning_gen.errors import UserError
from lightning_gen.processes import context
from lightning_gen.run_directory import write_atomically

_PRELOAD = "lightning_gen.benchmark.preload"


def jobs_of(plan: Plan, out: Path) -> dict[str, Job]:
    """{run: job} in the plan's order."""
    recipe, evaluations = plan.recipe(), plan.evaluations()
    return {
        run.name: Job(
            run=out / "cells" / run.name,
            fit=["--config", str(plan.experiment), *run.arguments()],
            evaluations=evaluations,
            recipe=recipe,
            threads=plan.threads,
            group=plan.name,
        )
        for run in plan.runs()
    }


def train(jobs: dict[str, Job], workers: int, display: Display) -> list[str]:
    """Runs the jobs that are not done, `workers` at a time; returns the names of those that failed.

    Each runs in a process forked from one that has imported everything and computed nothing: a cell starts in
    milliseconds, shares the libraries' memory with the others, and takes no other with it when it dies.
    """
    starter = context(_PRELOAD)
    waiting = [name for name, job in jobs.items() if not job.done()]
    running: dict[str, Any] = {}
    failed: list[str] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                name = waiting.pop(0)
                running[name] = starter.Process(target=run_job, args=(jobs[name],), name=name)
                running[name].start()
                display.started(name)
            time.sleep(0.2)
            for name, process in list(running.items()):
                if process.exitcode is None:
                    continue
                del running[name]
                if process.exitcode or not jobs[name].done():
                    failed.append(name)
                    display.failed(name, jobs[name].log)
                else:
                    display.finished(name)
            display.refresh()
    finally:  # an interrupt leaves no orphan behind; what they had checkpointed is resumed the next time
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join(10)
            process.kill()
    return failed


def benchmark(
    config: str,
    out: str | None = None,
    workers: int | None = None,
    seeds: int | None = None,
    baseline: str | None = None,
    rank_by: str | None = None,
) -> Path:
    """Trains, measures and ranks a grid of models: DIR/table.md, table.csv, plots and a directory a run.

    Started again it skips what is done, runs and evaluations, and resumes the run that was cut; with more seeds it trains
    those too.

    Args:
        config: the plan, such as configs/benchmark/digits.yaml.
        out: the directory; runs/benchmark-NAME by default.
        workers: runs trained at the same time, instead of the plan's.
        seeds: how many training seeds a cell, from 0, instead of the plan's.
        baseline: the row that the others are set against, instead of the plan's.
        rank_by: fd, bits_per_dim, kid, ..., instead of the plan's.
    """
    plan = Plan.read(Path(config))
    if seeds is not None and seeds < 1:
        raise UserError(f"--seeds must be at least 1, not {seeds}")
    given = {"seeds": None if seeds is None else list(range(seeds)), "baseline": baseline, "rank_by": rank_by}
    plan = replace(plan, **{key: value for key, value in given.items() if value is not None})
    folder = Path(out or f"runs/benchmark-{plan.name}").resolve()
    workers = plan.workers if workers is None else workers
    if workers < 1:
        raise UserError(f"a benchmark needs at least one worker, got {workers}")
    jobs = jobs_of(plan, folder)
    for name, job in jobs.items():
        if job.begun_otherwise():
            raise UserError(
                f"{job.run} was begun under another config than {config} now says for {name}: delete it to train it "
                "anew, or give another directory with --out"
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "benchmark.yaml", Path(config).read_text())
    with Display(plan.name, jobs) as display:
        failed = train(jobs, workers, display)
        display.phase("baselines and report")
        standing = _finish(plan, folder, jobs)
    if standing is not None:
        print_table(standing, plan.name)
    if failed:
        log = jobs[failed[0]].log
        others = "" if standing is None else f"; the others stand in {folder / 'table.md'}"
        raise UserError(
            f"{len(failed)} of {len(jobs)} runs failed ({', '.join(failed)}){_because(log)}{others}. See {log}; the same "
            "command tries them again"
        )
    if standing is not None and standing.disagreements:
        found = standing.disagreements[0]
        raise UserError(
            f"the cells' {found.of} cannot be ranked: {found}; {folder / 'table.md'} has them without ranks"
        )
    return folder


def _because(log: Path) -> str:
    said = reason(log)
    return "" if said is None else f": {said}"


def _finish(plan: Plan, folder: Path, jobs: dict[str, Job]) -> Standing | None:
    """Baselines in a process of their own, which alone needs torch, then the table and the plots; None with none measured."""
    done = {name: job for name, job in jobs.items() if job.measured()}
    if not done:
        return None
    from lightning_gen.benchmark.baselines import measure_baselines

    process = context(_PRELOAD).Process(target=measure_baselines, args=(plan, folder, next(iter(done.values()))))
    process.start()
    process.join()
    if process.exitcode:
        log = folder / "baselines" / "log.txt"
        raise UserError(f"the baselines failed{_because(log)}; see {log}")
    standing = table.collect(plan, folder, done)
    write_tables(standing, plan.name, folder)
    from lightning_gen.benchmark import plots

    plots.write(standing, plan, folder)
    return standing
