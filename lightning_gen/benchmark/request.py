"""A benchmark as a command asks for it: the plan with what the command changes in it, and where it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from lightning_gen.benchmark.cell import Job
from lightning_gen.benchmark.grid import Plan
from lightning_gen.benchmark.measurement import text_of
from lightning_gen.errors import UserError
from lightning_gen.refusals import nearest
from lightning_gen.run_directory import write_atomically


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


@dataclass(frozen=True)
class Request:
    """What `lightning-gen benchmark` was asked for, whoever does it: workers here, or jobs of a cluster.

    Attributes:
        config: file of the plan.
        plan: with the command's changes.
        folder: of all that is made.
        changes: those of the plan, as the command line has them.
    """

    config: Path
    plan: Plan
    folder: Path
    changes: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        config: str | Path,
        out: str | Path | None = None,
        *,
        seeds: int | None = None,
        baseline: str | None = None,
        rank_by: str | None = None,
    ) -> Self:
        """As the options of the same names say.

        Raises:
            UserError: there is no such plan, or it has not what the options name.
        """
        plan = Plan.read(Path(config))
        if seeds is not None and seeds < 1:
            raise UserError(f"--seeds must be at least 1, not {seeds}")
        given: dict[str, Any] = {"baseline": baseline, "rank_by": rank_by}
        given = {key: value for key, value in {"seeds": seeds, **given}.items() if value is not None}
        changes = [f"--{key}={value}" for key, value in given.items()]
        if seeds is not None:
            given["seeds"] = list(range(seeds))
        folder = Path(out or f"runs/benchmark-{plan.name}").resolve()
        return cls(Path(config).resolve(), replace(plan, **given), folder, changes)

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """{run: job} in the plan's order."""
        return jobs_of(self.plan, self.folder)

    def waiting(self) -> list[int]:
        """The places in the plan of the runs that are not done."""
        return [place for place, job in enumerate(self.jobs.values()) if not job.done()]

    def arguments(self) -> list[str]:
        """What another process is told to mean the same; it may work elsewhere."""
        return ["--config", str(self.config), "--out", str(self.folder), *self.changes]

    def refuse_others(self) -> None:
        """Raises UserError where a run was begun under another config."""
        for name in self.jobs:
            self._check(name)

    def begin(self) -> None:
        """Makes the folder, which says from now on what it is made from.

        Raises:
            UserError: a run was begun under another config; nothing is made then.
        """
        self.refuse_others()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._copy, self.config.read_text())

    def run(self, cell: str) -> str:
        """The name of the run that `cell` means, its name or its place in the plan, and that can be trained now.

        Raises:
            UserError: there is none, it was begun under another config, or places are counted in a plan that has been
                changed since the folder was begun.
        """
        names = list(self.jobs)
        if cell.isdigit() and cell not in names:
            if int(cell) >= len(names):
                raise UserError(f"--cell {cell} is out of range: {self.config} has {len(names)} runs, from 0")
            if text_of(self._copy) not in (None, self.config.read_text()):
                raise UserError(
                    f"{self.config} is not what {self._copy} was made from, so --cell {cell} may mean another run: name the "
                    "run, or submit the benchmark again"
                )
            cell = names[int(cell)]
        if cell not in self.jobs:
            raise UserError(f"--cell {cell}: {self.config} has no run of that name{nearest(cell, names)}")
        self._check(cell)
        return cell

    @property
    def _copy(self) -> Path:
        return self.folder / "benchmark.yaml"

    def _check(self, name: str) -> None:
        job = self.jobs[name]
        if job.begun_otherwise():
            raise UserError(
                f"{job.run} was begun under another config than {self.config} now says for {name}: delete it to train it "
                "anew, or give another directory with --out"
            )
