"""lightning-gen launch: an experiment, a benchmark or an evaluation as jobs of a Slurm cluster."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from lightning_gen.errors import UserError
from lightning_gen.launch import experiment
from lightning_gen.launch.resources import Resources
from lightning_gen.launch.submission import Submission, Unanswered
from lightning_gen.refusals import broken_files
from lightning_gen.run_directory import new_run, run_of


def launch(
    target: str,
    *overrides: str,
    run: str | None = None,
    job_name: str | None = None,
    cluster: str | None = None,
    nodes: int | None = None,
    gpus_per_node: int | str | None = None,
    tasks_per_node: int | None = None,
    cpus_per_task: int | None = None,
    mem: str | None = None,
    time: str | None = None,
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    constraint: str | None = None,
    signal: str | None = None,
    max_restarts: int | None = None,
    dry_run: bool = False,
    check: bool = False,
) -> Path | None:
    """Submits a training, a benchmark's grid or an evaluation to a Slurm cluster, and says how to watch it.

    Args:
        target: a config of an experiment (trained), of a benchmark (an array of its runs, then the table), or a run
            directory or checkpoint (evaluated). Options that launch does not have are passed on to fit, benchmark or
            evaluate, and so is all that stands after --.
        overrides: what is passed on.
        run: the directory of what is made, entered again where it exists; a new one under runs/ by default.
        job_name: as squeue shows it.
        cluster: what the jobs need and how the site is set up, such as configs/cluster/gpu.yaml; the flags below win over
            it, and it over the template's own.
        nodes: machines.
        gpus_per_node: GPUs of each, one task a GPU, such as 8 or h100:8; 0 for CPUs.
        tasks_per_node: processes on each node without GPUs.
        cpus_per_task: CPUs of each process.
        mem: memory of a node, such as 64G.
        time: limit, such as 12:00:00; the run goes on in the next job.
        partition: as sbatch has it.
        account: as sbatch has it.
        qos: as sbatch has it.
        constraint: as sbatch has it.
        signal: which tells the tasks to save, and when: USR1@300.
        max_restarts: how often the job may start again.
        dry_run: print the script and submit nothing.
        check: ask Slurm whether it would take the job, and submit nothing.
    """
    flags = {key: value for key, value in locals().items() if key in Resources.__dataclass_fields__}
    for path in (target, run or "."):
        if str(Path(path)).startswith("-"):
            raise UserError(f"{path!r} would be taken for an option by the job: give the whole path")
    if dry_run and check:
        raise UserError("--dry-run prints the script and --check asks Slurm: give one of them")
    asked = Launch(Path(target), overrides, Resources.read(cluster, flags), run, job_name, dry_run, check)
    return _kind(asked.target)(asked)


@dataclass(frozen=True)
class Launch:
    """What the command asks for.

    Attributes:
        target: a config, a run directory or a checkpoint.
        overrides: of the verb that the job runs.
        resources: of the job.
        run: the directory given.
        job_name: the name given.
        dry_run: show the script.
        check: ask Slurm about it.
    """

    target: Path
    overrides: Sequence[str]
    resources: Resources
    run: str | None = None
    job_name: str | None = None
    dry_run: bool = False
    check: bool = False


def _kind(target: Path) -> Callable[[Launch], Path | None]:
    """What is launched: a benchmark's config names the experiment that it varies, other configs are experiments."""
    if target.is_dir() or target.suffix == ".ckpt":
        return evaluation
    broken = next(broken_files(["--config", str(target)]), None)
    if broken is not None:
        raise UserError(broken)
    return benchmark if "experiment" in yaml.safe_load(target.read_text()) else training


def training(asked: Launch) -> Path | None:
    """One run, in the directory given or a new one."""
    name = asked.job_name or asked.target.stem

    def job(run: Path) -> Submission:
        arguments = [str(asked.target), *asked.overrides]
        return Submission("train", arguments, name, run / "slurm", asked.resources, environment={"RUN_DIR": str(run)})

    shown = Path(asked.run or f"runs/{asked.target.stem}-NUMBER")
    experiment.refuse(asked.target, asked.overrides, job(shown))
    if asked.dry_run or asked.check:
        return _asked_about(asked, job(shown))
    if asked.run is not None:
        return _submitted(job(Path(asked.run)), Path(asked.run))
    first = not Path("runs").exists()
    run = new_run(asked.target.stem)
    try:
        return _submitted(job(run), run)
    except Unanswered:
        raise
    except UserError:
        with suppress(OSError):  # they hold something of another command's
            run.rmdir()
            if first:
                run.parent.rmdir()
        raise


def evaluation(asked: Launch) -> Path | None:
    """Of a run directory or a checkpoint, over all tasks."""
    if asked.run is not None:
        raise UserError(f"--run is for what is made, and {asked.target} is evaluated where it lies: leave it out")
    run = asked.target if asked.target.is_dir() else run_of(asked.target)
    if not asked.target.exists() or not (asked.target.is_file() or (run / "checkpoints").is_dir()):
        raise UserError(f"{asked.target} holds no checkpoint: is it a run directory, and has the run begun?")
    from lightning_gen.calling import parsed
    from lightning_gen.evaluation.evaluate import evaluate

    parsed(
        evaluate, "lightning-gen evaluate", [str(asked.target), *asked.overrides]
    )  # refuses what evaluate would refuse
    name = asked.job_name or "evaluate"
    job = Submission("evaluate", [str(asked.target), *asked.overrides], name, run / "slurm", asked.resources)
    return _asked_about(asked, job) if asked.dry_run or asked.check else _submitted(job, run)


def benchmark(asked: Launch) -> Path | None:
    """The grid as a job array, and the job that makes its table."""
    from lightning_gen.benchmark.request import Request
    from lightning_gen.benchmark.slurm import submit_grid
    from lightning_gen.calling import call

    if asked.job_name is not None:
        raise UserError("--job_name is for one job, and a benchmark's have its own name: leave it out")

    def grid(
        seeds: int | None = None,
        baseline: str | None = None,
        rank_by: str | None = None,
        max_parallel: int | None = None,
    ) -> Path:
        """The options of `benchmark` that a launched one has.

        Args:
            seeds: how many training seeds a cell.
            baseline: the row that the others are set against.
            rank_by: the metric that ranks.
            max_parallel: runs trained at the same time.
        """
        request = Request.of(asked.target, asked.run, seeds=seeds, baseline=baseline, rank_by=rank_by)
        how = {"max_parallel": max_parallel, "dry_run": asked.dry_run, "check": asked.check}
        submit_grid(request, asked.resources, **how)
        return request.folder

    folder = call(grid, f"lightning-gen launch {asked.target}", asked.overrides)
    return None if asked.dry_run or asked.check else folder


def _asked_about(asked: Launch, job: Submission) -> None:
    print(job.script() if asked.dry_run else job.check(), end="" if asked.dry_run else "\n")


def _submitted(job: Submission, made: Path) -> Path:
    number = job.submit()
    print(f"job {number}: {job.nodes} x {job.tasks_per_node} tasks, script {job.path}")
    print(f"watch it with: squeue --jobs {number}; tail -F {shlex.quote(str(job.log))}")
    return made
