"""A benchmark on a Slurm cluster: its runs as a job array, and a job that makes the table when the last has ended."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from lightning_gen import run_lock
from lightning_gen.benchmark import preflight, queued, report
from lightning_gen.benchmark.grid import Plan
from lightning_gen.benchmark.request import Request
from lightning_gen.cluster import slurm
from lightning_gen.errors import UserError
from lightning_gen.launch import experiment
from lightning_gen.launch.resources import Resources
from lightning_gen.launch.submission import Submission, Unanswered, submit_again

_TEMPLATE = "array"


def submit_grid(
    request: Request,
    resources: Resources,
    *,
    max_parallel: int | None = None,
    dry_run: bool = False,
    check: bool = False,
) -> None:
    """Submits the runs that are not done, each an element of one job array under its place in the plan, then the job that
    makes the table; prints their ids and how to watch them.

    The second waits for the end of every element, however it ends (`afterok` would wait for ever for one that failed). It
    is all that is submitted where all runs are done. Scripts, logs and ids lie in DIR/slurm; this process needs no torch. From
    Python: `submit_grid(Request.of("benchmark.yaml", "DIR"), Resources.read("cluster.yaml"))`.

    Args:
        resources: of each job. A run is one process on one device: of nodes, tasks and devices it gets one, and its threads
            are the plan's.
        max_parallel: elements at the same time.
        dry_run: print the scripts, submit and write nothing.
        check: ask Slurm whether it would take the jobs, and submit and write nothing.

    Raises:
        UserError: there is no Slurm here, jobs for this directory are in its queue, a run there is another's, or the jobs
            have not the devices that the experiment computes on.
    """
    if max_parallel is not None and max_parallel < 1:
        raise UserError(f"--max_parallel must be at least 1, not {max_parallel}")
    request.refuse_others()
    array, table = submissions(request, resources, max_parallel)
    preflight.check(request, report.PRELOAD, here=False)
    if dry_run:
        for each in (array, table):
            print(each.script() if each is not None else f"# all {len(request.jobs)} runs are done already")
        return
    if shutil.which("sbatch") is None:
        raise UserError(
            "there is no Slurm here (no command sbatch): submit on a login node of the cluster, see the jobs' scripts with "
            "--dry_run, or leave out --launcher slurm"
        )
    if check:
        for each in (array, replace(table, dependency=None)):
            print(each.check() if each is not None else f"all {len(request.jobs)} runs are done already")
        return
    first = not request.folder.exists()
    with _alone(request):
        try:
            queued.refuse_beside(request.folder)
            request.begin()
            _submit(request, array, table)
        except Unanswered:
            raise
        except UserError:
            if first and not queued.jobs(request.folder):
                shutil.rmtree(request.folder, ignore_errors=True)
            raise


def submissions(
    request: Request, resources: Resources, max_parallel: int | None = None
) -> tuple[Submission | None, Submission]:
    """The job array of the runs that are not done, None where all are, and the job that makes the table, since it is none;
    that one waits for ARRAY_ID, in place of an id that there is not yet.

    Raises:
        UserError: the plan's name is no job's, or the jobs have not the devices that the experiment computes on.
    """
    places, name = request.waiting(), request.job_name()
    common = {"folder": request.folder / "slurm", "resources": _of_one_process(resources)}
    table = Submission(_TEMPLATE, request.arguments(), f"{name}-table", **common)
    if not places:
        return None, table
    elements = ranges(places) + ("" if max_parallel is None else f"%{max_parallel}")
    array = Submission(_TEMPLATE, request.arguments(), name, array=elements, **common)
    _refuse_devices(request.plan, array)
    return array, _after(table, "ARRAY_ID")


def _refuse_devices(plan: Plan, job: Submission) -> None:
    """Raises UserError where a run computes on other devices than the job has."""
    overrides = [[each for each in cell.arguments() if each.startswith("--trainer")] for cell in plan.cells()]
    for own in {tuple(each) for each in overrides}:
        experiment.refuse_devices(experiment.settings(plan.experiment, own), job)


def _of_one_process(resources: Resources) -> Resources:
    """The same for a job of one process, whatever the site's other jobs have."""
    gpus = resources.gpus_per_node
    if gpus:  # 8, or a100:8
        kind, colon, _ = str(gpus).rpartition(":")
        gpus = f"{kind}:1" if colon else 1
    return replace(resources, nodes=1, tasks_per_node=1, gpus_per_node=gpus)


def _after(table: Submission, array: str) -> Submission:
    return replace(table, dependency=f"afterany:{array}")


def ranges(places: Iterable[int]) -> str:
    """Rising numbers as Slurm writes them: 0-3,7."""
    found = []
    for _, group in itertools.groupby(enumerate(places), lambda pair: pair[1] - pair[0]):
        run = [place for _, place in group]
        found.append(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(found)


def _submit(request: Request, array: Submission | None, table: Submission) -> None:
    queued.forget(request.folder)
    jobs = []
    if array is None:
        print(f"all {len(request.jobs)} runs are done already: only the table is made")
    else:
        jobs.append(array.submit())
        queued.remember(request.folder, jobs[0])  # before anything else can fail
        count = len(request.waiting())
        print(f"job array {jobs[0]}: {count} of {len(request.jobs)} runs, logs {array.log}")
        table = _after(table, jobs[0])
    try:
        jobs.append(table.submit())
    except UserError as error:
        again = "give the same command with --collect, without --launcher"
        raise UserError(f"{error}; nothing makes the table yet: {again}") from error
    queued.remember(request.folder, jobs[-1])
    made = request.folder / "table.md"
    print(f"job {jobs[-1]}: makes {made} when the last run has ended, log {table.log}")
    print(f"watch them with: squeue --jobs {','.join(jobs)}")


@contextmanager
def _alone(request: Request) -> Iterator[None]:
    """Keeps another command from submitting for the same directory meanwhile."""
    folder = request.folder / "slurm"
    if run_lock.is_held(request.folder):
        raise UserError(f"another benchmark works in {request.folder}: wait for its end, or give another --out")
    try:
        run_lock.take(folder)
    except UserError as error:
        raise UserError(f"another command submits jobs for {request.folder} now: wait for its end") from error
    try:
        yield
    finally:
        run_lock.release(folder)


def put_off(request: Request) -> bool:
    """Whether this process is the job that makes the table, and too early: where requeueing is forbidden, successors of
    its runs are in the queue still. Then the same job is submitted again, to wait for their end."""
    own, jobs = slurm.job_id(), queued.jobs(request.folder)
    if own not in jobs:
        return False
    try:
        left = [job for job in queued.unended(jobs) if job != own]
        if not left:
            return False
        script = request.folder / "slurm" / f"{request.job_name()}-table.sbatch"
        again = submit_again(script, f"afterany:{':'.join(left)}")
    except UserError as error:  # a container without Slurm's commands, say: what is there is better than nothing
        print(f"the table is made now, whatever runs still: {error}", flush=True)
        return False
    queued.remember(request.folder, again)
    print(f"jobs {', '.join(left)} have not ended: job {again} makes the table when they have")
    return True
