"""A benchmark on a Slurm cluster: its runs as a job array, and a job that makes the table when the last has ended."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from lightning_gen.benchmark.measurement import text_of
from lightning_gen.benchmark.request import Request
from lightning_gen.errors import UserError
from lightning_gen.launch.resources import Resources
from lightning_gen.launch.submission import Submission
from lightning_gen.run_directory import write_atomically

_TEMPLATE = "array"
_PATIENCE_S = 60.0
"""For an answer of Slurm's, whose controller may be busy."""


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
    is all that is submitted where all runs are done. Scripts, logs and ids lie in DIR/slurm; nothing here needs torch. From
    Python: `submit_grid(Request.of("benchmark.yaml", "DIR"), Resources.read("cluster.yaml"))`.

    Args:
        resources: of each job. A run is one process on one device: of nodes, tasks and devices it gets one, and its threads
            are the plan's.
        max_parallel: elements at the same time.
        dry_run: print the scripts, submit and write nothing.
        check: ask Slurm whether it would take the jobs, and submit and write nothing.

    Raises:
        UserError: there is no Slurm here, jobs for this directory are in its queue, or a run there is another's.
    """
    if max_parallel is not None and max_parallel < 1:
        raise UserError(f"--max_parallel must be at least 1, not {max_parallel}")
    request.refuse_others()
    array, table = submissions(request, resources, max_parallel)
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
    _refuse_twice(request)
    request.begin()
    _submit(request, array, table)


def submissions(
    request: Request, resources: Resources, max_parallel: int | None = None
) -> tuple[Submission | None, Submission]:
    """The job array of the runs that are not done, None where all are, and the job that makes the table, since it is none;
    that one waits for ARRAY_ID, in place of an id that there is not yet."""
    places, name = request.waiting(), request.plan.name
    common = {"folder": request.folder / "slurm", "resources": _of_one_process(resources)}
    table = Submission(_TEMPLATE, request.arguments(), f"{name}-table", **common)
    if not places:
        return None, table
    elements = ranges(places) + ("" if max_parallel is None else f"%{max_parallel}")
    return Submission(_TEMPLATE, request.arguments(), name, array=elements, **common), _after(table, "ARRAY_ID")


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
    jobs = []
    if array is None:
        print(f"all {len(request.jobs)} runs are done already: only the table is made")
    else:
        jobs.append(array.submit())
        _remember(request.folder, jobs)  # before anything else can fail
        count = len(request.waiting())
        print(f"job array {jobs[0]}: {count} of {len(request.jobs)} runs, logs {array.log}")
        table = _after(table, jobs[0])
    try:
        jobs.append(table.submit())
    except UserError as error:
        again = "give the same command with --collect, without --launcher"
        raise UserError(f"{error}; nothing makes the table yet: {again}") from error
    _remember(request.folder, jobs)
    made = request.folder / "table.md"
    print(f"job {jobs[-1]}: makes {made} when the last run has ended, log {table.log}")
    print(f"watch them with: squeue --jobs {','.join(jobs)}")


def _file_of_jobs(folder: Path) -> Path:
    return folder / "slurm" / "jobs"


def _remember(folder: Path, jobs: Sequence[str]) -> None:
    write_atomically(_file_of_jobs(folder), "\n".join(jobs) + "\n")


def _refuse_twice(request: Request) -> None:
    """Raises UserError where jobs that were submitted for this directory have not ended.

    What succeeds such a job, where requeueing is forbidden, is not known here: a run's lock keeps two from training it.
    """
    queued = in_queue((text_of(_file_of_jobs(request.folder)) or "").split())
    if queued:
        raise UserError(
            f"jobs for {request.folder} have not ended ({', '.join(queued)}): wait for them, or end them with scancel "
            f"{' '.join(queued)}"
        )


def in_queue(jobs: Sequence[str]) -> list[str]:
    """Those of these jobs that wait or run.

    Raises:
        UserError: Slurm does not say.
    """
    if not jobs:
        return []
    # not by --jobs: of a job that is forgotten squeue says nothing but an error
    command = ["squeue", "--me", "--noheader", "--format=%F"]  # of an array's elements the array's id
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"Slurm does not say whether jobs {', '.join(jobs)} have ended: {_said(error)}") from error
    return [job for job in jobs if job in said]


def _said(error: Exception) -> str:
    return " ".join((getattr(error, "stderr", None) or str(error)).split())
