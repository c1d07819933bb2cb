"""What a benchmark ends with: baselines, table, plots, and the names of the runs that failed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_gen.benchmark import queued, table
from lightning_gen.benchmark.cell import Job
from lightning_gen.benchmark.request import Request
from lightning_gen.benchmark.surroundings import failed, reason
from lightning_gen.comparison.standing import Standing
from lightning_gen.comparison.table import print_table, write_tables
from lightning_gen.errors import UserError
from lightning_gen.processes import context
from lightning_gen.run_lock import is_held

PRELOAD = "lightning_gen.benchmark.preload"


_STATUS = re.compile(r"^srun: error: .*: Exited with exit code|: srun ended with \d+$")
"""Lines of a job's log that repeat what was said above them."""


@dataclass(frozen=True)
class Failure:
    """A run that failed.

    Attributes:
        run: its name.
        why: in one line; None where only the log says it.
        log: what it said.
    """

    run: str
    why: str | None
    log: Path

    @classmethod
    def of(cls, name: str, job: Job) -> Failure:
        """As the run's own directory says it."""
        return cls(name, "another process trains in it" if is_held(job.run) else reason(job.log), job.log)

    def __str__(self) -> str:
        return "" if self.why is None else f": {self.why}"


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        standing: of the runs that are measured; None where none is.
        lacking: why the baselines are not there, in one line; None where they are.
    """

    standing: Standing | None
    lacking: str | None = None


def write_report(request: Request) -> Report:
    """Measures the baselines, in a process of their own, which alone needs torch; then the table and the plots of the runs
    that are measured, with the baselines that there are."""
    done = {name: job for name, job in request.jobs.items() if job.measured()}
    if not done:
        return Report(None)
    from lightning_gen.benchmark.baselines import measure_baselines

    plan, folder = request.plan, request.folder
    process = context(PRELOAD).Process(target=measure_baselines, args=(plan, folder, next(iter(done.values()))))
    process.start()
    process.join()
    lacking = None
    if process.exitcode:
        log = folder / "baselines" / "log.txt"
        lacking = f"the baselines failed{_because(log)}; see {log}"
    notes = [] if lacking is None else ["The baselines failed: baselines/log.txt says why."]
    standing = table.collect(plan, folder, done, notes)
    write_tables(standing, plan.name, folder)
    from lightning_gen.benchmark import plots

    plots.write(standing, plan, folder)
    return Report(standing, lacking)


def conclude(request: Request, made: Report, broken: Sequence[Failure], again: str) -> None:
    """Prints the table.

    Args:
        broken: the runs that failed.
        again: what tries them again.

    Raises:
        UserError: runs failed, or the baselines, or they cannot be ranked.
    """
    standing, file = made.standing, request.folder / "table.md"
    if standing is not None:
        print_table(standing, request.plan.name)
    if broken:
        names = ", ".join(each.run for each in broken)
        others = "" if standing is None else f"; the others stand in {file}"
        raise UserError(
            f"{len(broken)} of {len(request.jobs)} runs failed ({names}){broken[0]}{others}. See {broken[0].log}; {again}"
        )
    if made.lacking is not None:
        raise UserError(f"{made.lacking}; the runs stand in {file} without them")
    if standing is not None and standing.disagreements:
        found = standing.disagreements[0]
        raise UserError(f"the cells' {found.of} cannot be ranked: {found}; {file} has them without ranks")


def collect(request: Request) -> Path:
    """The report of what is done by now, at any time; names what is not.

    Raises:
        UserError: nothing is done, runs failed, or cannot be ranked.
    """
    broken, others = _not_done(request)
    for each in broken:
        print(f"{each.run} FAILED{each}; see {each.log}", flush=True)
    if others:
        print(f"{len(others)} of {len(request.jobs)} runs are not done: {', '.join(others)}", flush=True)
    made = write_report(request)
    conclude(request, made, broken, "the benchmark, submitted or started again, tries them again")
    if made.standing is None:
        raise UserError(f"no run in {request.folder} is measured yet: there is nothing to collect")
    return request.folder


def _not_done(request: Request) -> tuple[list[Failure], list[str]]:
    """(runs that failed, names of those that wait or run). One that was submitted and is nowhere any more has failed, though
    it could not say so: it came to the end of its time, crashed, or was not let begin."""
    submitted = queued.jobs(request.folder)
    try:
        places = set().union(*queued.unended(submitted).values())
    except UserError as error:
        print(error, flush=True)
        places = set()
    broken, others = [], []
    for place, (name, job) in enumerate(request.jobs.items()):
        if job.done():
            continue
        if place in places or is_held(job.run):
            others.append(name)
        elif failed(job.log):
            broken.append(Failure.of(name, job))
        elif submitted:
            log = request.folder / "slurm" / f"{request.job_name()}-{place}.log"
            broken.append(Failure(name, _last_line(log) or "it has ended without a word", log))
        else:
            others.append(name)
    return broken, others


def _last_line(log: Path) -> str | None:
    """The last that a job said, but for the status that it ended with; None where it said nothing."""
    said = log.read_text(errors="replace").splitlines() if log.exists() else []
    lines = [line.strip() for line in said if line.strip() and not _STATUS.search(line)]
    return lines[-1] if lines else None


def _because(log: Path) -> str:
    said = reason(log)
    return "" if said is None else f": {said}"
