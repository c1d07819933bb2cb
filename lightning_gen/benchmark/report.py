"""What a benchmark ends with: baselines, table, plots, and the names of the runs that failed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_gen.benchmark import table
from lightning_gen.benchmark.request import Request
from lightning_gen.benchmark.surroundings import failed, reason
from lightning_gen.comparison.standing import Standing
from lightning_gen.comparison.table import print_table, write_tables
from lightning_gen.errors import UserError
from lightning_gen.processes import context

PRELOAD = "lightning_gen.benchmark.preload"


def write_report(request: Request) -> Standing | None:
    """Measures the baselines, in a process of their own, which alone needs torch; then the table and the plots of the runs
    that are measured. None where none is."""
    done = {name: job for name, job in request.jobs.items() if job.measured()}
    if not done:
        return None
    from lightning_gen.benchmark.baselines import measure_baselines

    plan, folder = request.plan, request.folder
    process = context(PRELOAD).Process(target=measure_baselines, args=(plan, folder, next(iter(done.values()))))
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


def conclude(request: Request, standing: Standing | None, broken: Sequence[str], again: str) -> None:
    """Prints the table.

    Args:
        broken: names of the runs that failed.
        again: what tries them again.

    Raises:
        UserError: runs failed, or cannot be ranked.
    """
    if standing is not None:
        print_table(standing, request.plan.name)
    if broken:
        log = request.jobs[broken[0]].log
        others = "" if standing is None else f"; the others stand in {request.folder / 'table.md'}"
        raise UserError(
            f"{len(broken)} of {len(request.jobs)} runs failed ({', '.join(broken)}){_because(log)}{others}. See {log}; "
            f"{again}"
        )
    if standing is not None and standing.disagreements:
        found = standing.disagreements[0]
        raise UserError(
            f"the cells' {found.of} cannot be ranked: {found}; {request.folder / 'table.md'} has them without ranks"
        )


def collect(request: Request) -> Path:
    """The report of what is done by now, at any time; names what is not.

    Raises:
        UserError: nothing is done, runs failed, or cannot be ranked.
    """
    jobs = request.jobs
    broken = [name for name, job in jobs.items() if not job.done() and failed(job.log)]
    others = [name for name, job in jobs.items() if not job.done() and name not in broken]
    for name in broken:
        print(f"{name} FAILED{_because(jobs[name].log)}; see {jobs[name].log}", flush=True)
    if others:
        print(f"{len(others)} of {len(jobs)} runs are not done: {', '.join(others)}", flush=True)
    standing = write_report(request)
    conclude(request, standing, broken, "the benchmark, submitted or started again, tries them again")
    if standing is None:
        raise UserError(f"no run in {request.folder} is measured yet: there is nothing to collect")
    return request.folder


def _because(log: Path) -> str:
    said = reason(log)
    return "" if said is None else f": {said}"
