"""lightning-gen benchmark: train, measure and rank a grid of models."""

from __future__ import annotations

import shutil
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from lightning_gen.benchmark import preflight, queued, report
from lightning_gen.benchmark.cell import Job, run_cell, run_job
from lightning_gen.benchmark.display import Display
from lightning_gen.benchmark.request import Request
from lightning_gen.errors import UserError
from lightning_gen.processes import context
from lightning_gen.run_lock import holding


def train(jobs: dict[str, Job], workers: int, display: Display) -> list[str]:
    """Runs the jobs that are not done, `workers` at a time; returns the names of those that failed.

    Each runs in a process forked from one that has imported everything and computed nothing: a cell starts in
    milliseconds, shares the libraries' memory with the others, and takes no other with it when it dies.
    """
    starter = context(report.PRELOAD)
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
    launcher: Literal["local", "slurm"] = "local",
    cluster: str | None = None,
    max_parallel: int | None = None,
    dry_run: bool = False,
    cell: str | None = None,
    place: int | None = None,
    collect: bool = False,
) -> Path | None:
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
        launcher: local, or slurm: the runs as a job array, and a job that makes the table when the last one has ended.
        cluster: what the jobs need, a file such as configs/cluster/gpu.yaml; with --launcher slurm.
        max_parallel: runs trained at the same time; with --launcher slurm.
        dry_run: print the jobs' scripts and submit nothing; with --launcher slurm.
        cell: only this run, by its name, and no table.
        place: only the run at this place in the plan, from 0, likewise: an element of the job array.
        collect: train nothing, make the table of what is done.
    """
    of_slurm = {"--cluster": cluster, "--max_parallel": max_parallel, "--dry_run": dry_run or None}
    of_here = {"--workers": workers, "--cell": cell, "--place": place, "--collect": collect or None}
    for option, value in (of_slurm if launcher == "local" else of_here).items():
        if value is not None:
            mend = "needs --launcher slurm" if launcher == "local" else "runs here: leave out --launcher slurm"
            raise UserError(f"{option} {mend}")
    one_of = {"--cell": cell, "--place": place, "--collect": collect or None}
    given = [option for option, value in one_of.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"{given[0]} trains one run, and {given[1]} means another or none: give one of them")
    request = Request.of(config, out, seeds=seeds, baseline=baseline, rank_by=rank_by)
    if cell is not None:
        return one(request, request.run(cell))
    if place is not None:
        return one(request, request.at(place))
    if collect:
        from lightning_gen.benchmark.slurm import put_off

        return None if put_off(request) else report.collect(request)
    if launcher == "slurm":
        from lightning_gen.benchmark.slurm import submit_grid
        from lightning_gen.launch.resources import Resources

        submit_grid(request, Resources.read(cluster), max_parallel=max_parallel, dry_run=dry_run)
        return None if dry_run else request.folder
    return here(request, workers)


def one(request: Request, name: str) -> Path:
    """Trains and measures one run in this process; its directory.

    Raises:
        UserError: it cannot be trained, or it failed.
        Interrupted: it was told to stop by a signal, and goes on when it is started again.
    """
    job = request.jobs[name]
    if job.done():
        print(f"{name} is done already")
        return job.run
    with working(request, shared=True):
        run_cell(job)
    return job.run


def working(request: Request, shared: bool = False) -> AbstractContextManager[None]:
    """Within it no other command trains the runs of this directory, but those that share it, each with a run of its own."""
    request.refuse_others()  # before anything is made
    return holding(request.folder, shared=shared, taken="another benchmark works in", option="--out")


def here(request: Request, workers: int | None = None) -> Path:
    """Trains, measures and ranks all runs in processes of this machine; the benchmark's directory.

    Raises:
        UserError: another benchmark works there, jobs for the directory are in a queue, runs cannot be trained, failed, or
            cannot be ranked.
    """
    workers = request.plan.workers if workers is None else workers
    if workers < 1:
        raise UserError(f"a benchmark needs at least one worker, got {workers}")
    if shutil.which("squeue") is not None:  # elsewhere a run's lock keeps two from training it
        queued.refuse_beside(request.folder)
    new = not request.folder.exists()
    if new:  # a refusal leaves no folder
        preflight.check(request, report.PRELOAD, here=True)
    with working(request):
        if not new:
            preflight.check(request, report.PRELOAD, here=True)
        request.begin()
        with Display(request.plan.name, request.jobs) as display:
            broken = train(request.jobs, workers, display)
            display.phase("baselines and report")
            made = report.write_report(request)
    failures = [report.Failure.of(name, request.jobs[name]) for name in broken]
    report.conclude(request, made, failures, "the same command tries them again")
    return request.folder
