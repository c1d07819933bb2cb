"""The W&B run of a run directory: one id over all restarts, every row once, and never a reason to stop or to wait."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from lightning_gen import wandb_segments
from lightning_gen.errors import UserError
from lightning_gen.metrics_file import each_row
from lightning_gen.wandb_segments import Cell
from lightning_gen.wandb_server import has_key, reachable, server

FINISH_S = 60
"""Seconds that the end of a run waits for what is not yet sent; `lightning-gen sync` sends the rest, out of metrics.csv."""


class WandbRun(WandbLogger):
    """Lightning's logger with this project's x-axes, which goes on offline where W&B cannot be had.

    Every row carries `step` (optimizer steps), against which W&B plots, and on training's rows `images_seen` beside it.
    A run that was killed makes again the steps after its checkpoint; what W&B has of them it is not told twice.
    """

    _had: frozenset[Cell] = frozenset()
    """What earlier starts have told W&B, from the step on that this one begins at."""

    _open = False
    """Something has been said to W&B: its run begins then, and the id stands in the run directory."""

    _lost = False
    """W&B's service has ended: it gets the signals that a job's processes get."""

    @property
    def offline(self) -> bool:
        """Whether it is kept on this machine, to be sent later."""
        return self._offline

    @property
    def complete(self) -> bool:
        """Whether W&B's service, on the way to the server, has all that was said."""
        return not (self._offline or self._lost)

    @property
    def experiment(self) -> Any:
        if not self._open:  # Lightning asks for it before anything that may be refused has been
            return _DummyExperiment()
        if self._experiment is None and not self._offline and rank_zero_only.rank == 0:
            import wandb

            try:
                return self._begin()
            except Exception as error:  # a wrong key, a server that went away
                if not _is_of_client(error):
                    raise
                print(f"W&B cannot be used ({_line(error)}): this run is kept offline", file=sys.stderr)
                wandb.teardown()  # its service holds the run's id
                self._offline, self._wandb_init["mode"] = True, "offline"
        return self._begin()

    def _begin(self) -> Any:
        new = self._experiment is None
        if new:
            # A service of its own: that of an agent which started this process holds on to the ids of runs that were killed.
            os.environ.pop("WANDB_SERVICE", None)
        if self._wandb_init.get("anonymous", "") is None:
            del self._wandb_init["anonymous"]  # wandb warns of it, even of None
        run = super().experiment
        if new and hasattr(run, "define_metric"):
            run.define_metric("step")
            run.define_metric("*", step_metric="step", step_sync=True)
        return run

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        self._open = True
        super().log_hyperparams(params)

    @rank_zero_only
    def catch_up(self, run: Path, step: int | None = None) -> None:
        """Tells W&B what the run's metrics.csv and sheets hold up to `step`, or all, and W&B lacks: what a killed
        service did not write, or all that was before there was a W&B run. From here on nothing is told twice.
        """
        self._open = True
        server_rows = None if self._offline else getattr(self.experiment, "starting_step", None)
        had = wandb_segments.cells(run, str(self.version), server_rows)
        self._had = frozenset(had)
        csv = run / "metrics.csv"
        for row in each_row(csv) if csv.exists() else ():
            if row["step"].isdigit() and (step is None or int(row["step"]) <= step):
                known = {name: float(value) for name, value in row.items() if value and name != "step"}
                self.log_metrics(known, int(row["step"]))
        for at, name, sheet in _sheets(run):
            if (step is None or at <= step) and (at, name) not in had:
                self.log_image(name, [str(sheet)], at)
        self._had = frozenset(cell for cell in had if step is not None and cell[0] >= step)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if step is not None:
            metrics = {name: value for name, value in metrics.items() if name in _AXES or (step, name) not in self._had}
            if metrics.keys() <= _AXES:
                return
            metrics = {**metrics, "step": step}
        self._open = True
        self._tell(super().log_metrics, metrics, step)

    def _tell(self, say: Callable[..., Any], *args: Any) -> None:
        """Says something to W&B; to a service that has ended nothing, and the first time that is told."""
        if self._lost:
            return
        try:
            say(*args)
        except Exception as error:
            if not _is_of_client(error):
                raise
            self._lost = True
            print(
                f"W&B is lost ({_line(error)}): metrics.csv goes on; the run's next start sends what is missing, or "
                f"after its end lightning-gen sync {self.save_dir}",
                file=sys.stderr,
            )
            import wandb

            with suppress(Exception):  # or the end of the process fails on it once more
                wandb.teardown()

    def finish(self, status: int = 0) -> None:
        """Ends the W&B run, waiting no longer than FINISH_S, and says how a run that was kept offline is sent.

        Args:
            status: the exit status of this process, by which W&B tells a run that was cut from one that is done.
        """
        if self._experiment is None or rank_zero_only.rank != 0:
            return
        self._tell(self.experiment.finish, status)
        if self._offline and not status:
            print(how_to_send(Path(str(self.save_dir))))

    def mark_preempting(self) -> None:
        """Tells W&B that the run is about to be stopped and will go on; a sweep then has it started again."""
        if self._experiment is not None and rank_zero_only.rank == 0 and not self._offline:
            self._tell(self.experiment.mark_preempting)


_AXES = frozenset({"epoch", "images_seen"})
"""What rows carry to be plotted against, beside `step`."""

SHEETS, RECONSTRUCTIONS = "samples", "reconstructions"
"""Folders of a run's sheets, and under which names they go to W&B."""


def _is_of_client(error: Exception) -> bool:
    """Whether an error comes from W&B's client or from the way to it, and is no bug of a caller's."""
    return isinstance(error, OSError) or type(error).__module__.startswith("wandb.")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _sheets(run: Path) -> Iterator[tuple[int, str, Path]]:
    """(step, name, file) of the sheets of a run, of each name in order."""
    for name in (SHEETS, RECONSTRUCTIONS):
        for file in sorted((run / name).glob("step_*.png")):
            if file.stem.removeprefix("step_").isdigit():
                yield int(file.stem.removeprefix("step_")), name, file


def how_to_send(run: Path) -> str:
    return f"W&B is offline; send this run later with: lightning-gen sync {run}"


def finish(loggers: Iterable[Any], status: int = 0) -> None:
    """Ends the W&B runs among these loggers, of a process that ends with `status`."""
    for logger in loggers:
        if isinstance(logger, WandbRun):
            logger.finish(status)


def mark_preempting(loggers: Iterable[Any]) -> None:
    """Tells W&B of its runs among these loggers that they are about to be stopped and will go on."""
    for logger in loggers:
        if isinstance(logger, WandbRun):
            logger.mark_preempting()


def sweep_run() -> str | None:
    """The id that a sweep's agent has given to the run at hand: the sweep knows it by no other. None without an agent."""
    return (os.environ.get("WANDB_RUN_ID") or None) if os.environ.get("WANDB_SWEEP_ID") else None


def sweep_directory() -> str | None:
    """The directory of a sweep's run, the same whenever the sweep has it started again; None without an agent."""
    identity = sweep_run()
    return identity and str(Path("runs") / f"{os.environ['WANDB_SWEEP_ID'].rpartition('/')[2]}-{identity}")


def complete(logger: Any, run: Path, identity: str, job_type: str, tags: list[str], group: str | None = None) -> None:
    """Gives a WandbLogger named in a config (and no other) what it lacks, in place.

    Args:
        logger: `trainer.logger` as parsed: one logger, a list of them, or none.
        identity, job_type, tags, group: of the W&B run; what the config says itself stays.
    """
    for one in _loggers(logger):
        given = {**one.init_args.as_dict(), **(one.get("dict_kwargs") or {})}
        whole = settings(run, identity, given, job_type, tags, group)
        known = one.init_args.as_dict().keys()
        for key in whole.keys() & known:
            one.init_args[key] = whole[key]
        one.dict_kwargs = {key: value for key, value in whole.items() if key not in known}
        one.class_path = f"{WandbRun.__module__}.{WandbRun.__qualname__}"


def _loggers(logger: Any) -> list[Any]:
    """The WandbLoggers among `trainer.logger` as parsed."""
    several = logger if isinstance(logger, list) else [logger]
    return [one for one in several if (getattr(one, "class_path", None) or "").endswith("WandbLogger")]


def settings(
    run: Path, identity: str, given: dict[str, Any], job_type: str, tags: list[str], group: str | None = None
) -> dict[str, Any]:
    """The arguments of a logger that lives in the run directory, resumes, and neither asks nor waits for anything.

    What the config says stands, then W&B's environment variables, then this project's own names. What cannot stand is
    refused, or set aside in a line.

    Raises:
        UserError: another folder or way to resume than the run directory's, or a prefix.
    """
    given = {key: value for key, value in given.items() if value is not None}
    _refuse(run, given)
    environment = {
        key: os.environ[f"WANDB_{key.upper()}"] for key in _ENVIRONMENT if os.environ.get(f"WANDB_{key.upper()}")
    }
    if "tags" in environment:
        environment["tags"] = environment["tags"].split(",")
    offline = _offline(given)
    if offline:
        given.pop("mode", None)  # WandbLogger says it through the environment, which this would override
    return {
        "project": "lightning_gen",
        "name": run.name,
        "tags": tags,
        "group": os.environ.get("WANDB_RUN_GROUP") or _first_group(run, identity) or group,
        "job_type": job_type,
        **environment,
        **given,
        "offline": offline,
        "save_dir": str(run),
        "id": identity,
        "resume": "allow",
        "log_model": False,
        "settings": {**_of_client(), **given.get("settings", {})},
    }


_ENVIRONMENT = ("project", "name", "tags", "job_type")
"""Arguments that stand in WANDB_PROJECT and the like; W&B itself reads those that are not given, such as WANDB_ENTITY."""


def _refuse(run: Path, given: Mapping[str, Any]) -> None:
    """Raises UserError for arguments that a run directory cannot have; names in a line those that are set aside."""
    for key in ("save_dir", "dir"):
        if str(given.get(key, ".")) not in (".", str(run)):
            raise UserError(
                f"trainer.logger.{key} is {str(given[key])!r}: W&B's files of a run lie in its directory, {run}/wandb, from "
                "where it resumes and is sent; leave it out"
            )
    if given.get("resume", "allow") != "allow":
        raise UserError(f"trainer.logger.resume is {given['resume']!r}: a run directory always resumes; leave it out")
    if given.get("prefix"):
        raise UserError(
            f"trainer.logger.prefix is {given['prefix']!r}: metrics keep their names, by which runs are compared; leave it "
            "out, and give a name, tags or a group"
        )
    if rank_zero_only.rank != 0:
        return
    aside = [name for name in ("WANDB_DIR", "WANDB_RESUME") if os.environ.get(name)]
    aside += ["WANDB_RUN_ID"] if os.environ.get("WANDB_RUN_ID") and sweep_run() is None else []
    if aside:
        print(f"{', '.join(aside)}: set aside, since {run} has its own W&B folder and id", file=sys.stderr)
    if given.get("log_model"):
        print(f"trainer.logger.log_model: set aside, checkpoints stay in {run}/checkpoints", file=sys.stderr)


def asked_id(logger: Any) -> str | None:
    """The id that a config's WandbLogger is given, as `id` or `version`; None without one.

    Raises:
        UserError: W&B takes no such id.
    """
    for one in _loggers(logger):
        arguments = {**one.init_args.as_dict(), **(one.get("dict_kwargs") or {})}
        found = arguments.get("id") or arguments.get("version")
        if found and (re.search(r"[/\\#?%:\s]", str(found)) or len(str(found)) > 128):
            raise UserError(
                f"trainer.logger.id is {found!r}: W&B takes up to 128 characters, none of / \\ # ? % : or a space"
            )
        if found:
            return str(found)
    return None


def _first_group(run: Path, identity: str) -> str | None:
    """On rank zero, which alone speaks to W&B, the group that the run was begun in."""
    return wandb_segments.group(run, identity) if rank_zero_only.rank == 0 else None


def _offline(given: dict[str, Any]) -> bool:
    """Whether the run must be kept offline. One that is disabled need not: it is no run, and nothing is written of it."""
    mode = given.get("mode") or os.environ.get("WANDB_MODE")
    if mode == "disabled":
        return False
    if given.get("offline") or mode in ("offline", "dryrun") or not has_key():
        return True
    if rank_zero_only.rank != 0 or reachable():
        return False
    print(f"W&B's server {server()} does not answer: this run is kept offline", file=sys.stderr)
    return True


def _of_client() -> dict[str, Any]:
    """Settings of W&B's client, those that the installed version has: how long it waits, and what it may lose."""
    import wandb

    wanted = {
        "init_timeout": 20.0,
        "login_timeout": 10.0,
        "finish_timeout": float(FINISH_S),
        "x_transaction_log_flush_interval": 1.0,  # of rows that a kill may cost the offline run, 15 s by default
    }
    return {key: value for key, value in wanted.items() if key in wandb.Settings.model_fields}
