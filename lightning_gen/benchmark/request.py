"""A benchmark as a command asks for it: the plan with what the command changes in it, and where it goes."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from lightning_gen.benchmark.cell import Job
from lightning_gen.benchmark.grid import Plan
from lightning_gen.benchmark.measurement import text_of
from lightning_gen.cluster.slurm import INTERACTIVE
from lightning_gen.errors import UserError
from lightning_gen.refusals import nearest
from lightning_gen.run_directory import refuse_dangling, write_atomically


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
        refuse_dangling(Path(out or f"runs/benchmark-{plan.name}"))
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

    def job_name(self) -> str:
        """Of jobs of a cluster: that of the plan, with dashes for what none may have.

        Raises:
            UserError: a job of that name would be taken for an interactive one, or nothing of it is left.
        """
        name = re.sub(r"[^\w.+-]+", "-", str(self.plan.name), flags=re.ASCII).strip("-")
        if not name or name in INTERACTIVE:
            raise UserError(f"the plan's name {self.plan.name!r} cannot be that of a job: give it another `name`")
        return name

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
        write_atomically(self.folder / "benchmark.yaml", self.config.read_text())
        write_atomically(self._sources, json.dumps(self._digests(), indent=1) + "\n")

    def run(self, name: str) -> str:
        """The name of a run that can be trained now.

        Raises:
            UserError: there is none of that name, it was begun under another config, or the plan or the experiment has been
                changed since the folder was begun.
        """
        self._refuse_changes()
        if name not in self.jobs:
            raise UserError(f"--cell {name}: {self.config} has no run of that name{nearest(name, self.jobs)}")
        self._check(name)
        return name

    def at(self, place: int) -> str:
        """The name of the run at a place in the plan, counted from 0, that can be trained now.

        Raises:
            UserError: there is none, or as `run`.
        """
        self._refuse_changes()
        if not 0 <= place < len(self.jobs):
            raise UserError(f"--place {place} is out of range: {self.config} has {len(self.jobs)} runs, from 0")
        return self.run(list(self.jobs)[place])

    @property
    def _sources(self) -> Path:
        """What the folder was begun from: {file: SHA-256}."""
        return self.folder / "sources.json"

    def _digests(self) -> dict[str, str]:
        files = [self.config, *self.plan.sources()]
        return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    def _refuse_changes(self) -> None:
        """Runs that wait are to be trained as they were submitted: places would mean other runs, and runs other models."""
        said = text_of(self._sources)
        if said is None:
            return
        now = self._digests()
        # in their order, the plan first: another checkout may lie elsewhere
        for (file, digest), begun in itertools.zip_longest(now.items(), json.loads(said).values(), fillvalue=("", "")):
            if digest != begun:
                raise UserError(
                    f"{file or self.plan.experiment} is not what it was when {self.folder} was begun: restore it, or give "
                    "another --out"
                )

    def _check(self, name: str) -> None:
        job = self.jobs[name]
        if job.begun_otherwise():
            raise UserError(
                f"{job.run} was begun under another config than {self.config} now says for {name}: delete it to train it "
                "anew, or give another directory with --out"
            )
