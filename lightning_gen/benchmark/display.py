"""The one progress display of a benchmark: how much is done, which runs are going on, how long is left."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from lightning_gen.benchmark.cell import Job
from lightning_gen.metrics_file import last_step


class Display:
    """Follows the runs through the files they write, so it works for runs in any process, on any machine.

    On a terminal it is live; elsewhere it prints a line when a run ends, and one at least every half minute.
    """

    def __init__(self, name: str, jobs: dict[str, Job]) -> None:
        self.name, self.jobs = name, jobs
        self.running: list[str] = []
        self.done = {name for name, job in jobs.items() if job.done()}
        self.broken: set[str] = set()
        self._skipped = len(self.done)
        self._begin = self._spoken = time.monotonic()
        self._totals: dict[str, int] = {}
        self._note = ""
        self._live: Any = None

    def __enter__(self) -> Self:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(self._render(), refresh_per_second=4, transient=True)
            self._live.start()
        elif self._skipped:
            print(f"{self._skipped} of {len(self.jobs)} runs are done already", flush=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, name: str) -> None:
        self.running.append(name)

    def finished(self, name: str) -> None:
        self.running.remove(name)
        self.done.add(name)
        self._say(f"{name} done")

    def failed(self, name: str, log: Path) -> None:
        self.running.remove(name)
        self.broken.add(name)
        self._say(f"{name} FAILED, see {log}")

    def phase(self, note: str) -> None:
        self._note = note
        self.refresh()

    def refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._render())
        elif time.monotonic() - self._spoken > 30:
            self._say("running " + ", ".join(f"{name} {self._stage(name)}" for name in self.running))

    def _say(self, text: str) -> None:
        if self._live is None:
            self._spoken = time.monotonic()
            print(f"[{len(self.done)}/{len(self.jobs)}, {self._left()}] {text}", flush=True)

    def _fraction(self, name: str) -> float:
        """Share of a run that is done: a training counts for nine evaluations."""
        job = self.jobs[name]
        return (9 * self._trained(name) + len(job.measured())) / (9 + len(job.evaluations))

    def _trained(self, name: str) -> float:
        """Share of a training that is done."""
        run = self.jobs[name].run
        if name not in self._totals and (run / "config.yaml").exists():
            config = yaml.safe_load((run / "config.yaml").read_text())
            self._totals[name] = config["trainer"]["max_steps"]
        total = self._totals.get(name, 0)
        return min(1.0, last_step(run / "metrics.csv") / total) if total > 0 else 0.0

    def _stage(self, name: str) -> str:
        fraction, job = self._trained(name), self.jobs[name]
        if fraction < 1:
            return f"training {fraction:.0%}"
        count = len(job.evaluations)
        return f"measuring {min(len(job.measured()) + 1, count)} of {count}" if count > 1 else "measuring"

    def _left(self) -> str:
        """Time left, from the pace so far."""
        finished = len(self.done) + len(self.broken) - self._skipped + sum(map(self._fraction, self.running))
        todo = len(self.jobs) - self._skipped
        if finished <= 0 or todo == 0:
            return "time left unknown"
        seconds = (time.monotonic() - self._begin) * (todo - finished) / finished
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d} left"

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        lines = Table.grid(padding=(0, 1))
        count = len(self.done) + len(self.broken)
        title = f"{self.name}: {count} of {len(self.jobs)} runs, {self._left()}" if not self._note else self._note
        for name in self.running:
            lines.add_row(f"  {name}", ProgressBar(1.0, self._fraction(name), width=30), self._stage(name))
        whole = (count + sum(map(self._fraction, self.running))) / max(1, len(self.jobs))
        return Group(title, ProgressBar(1.0, whole, width=60), lines)
