"""lightning-gen sync: sends W&B what runs kept offline, and what those that were online could not send."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lightning_gen import run_lock
from lightning_gen.attempts import other_places
from lightning_gen.errors import UserError
from lightning_gen.wandb_segments import Segment, segments
from lightning_gen.wandb_server import has_key, reachable, server

_BOUNDED = {
    "WANDB_X_GRAPHQL_RETRY_MAX": "3",
    "WANDB_X_GRAPHQL_TIMEOUT_SECONDS": "20",
    "WANDB_X_FILE_STREAM_RETRY_MAX": "5",
    "WANDB_X_FILE_STREAM_TIMEOUT_SECONDS": "30",
}
"""How W&B's client gives up on a server that does not answer; by itself it tries for hours."""


def sync(runs: list[str]) -> None:
    """Sends W&B what runs kept offline, start by start in their order, and of a run that was online what it lacks of its
    metrics.csv and sample sheets; again: nothing that was sent.

    Args:
        runs: Run directories, or folders that hold some: a benchmark, or runs/.

    Raises:
        UserError: there is no run, no key or no server, or the server refuses some, when the others are sent; what was
            not sent stays as it is.
    """
    found = {run.resolve(): run for path in map(Path, runs) for run in _runs_below(path)}
    if not has_key():
        raise UserError(f"there is no key for {server()}: give WANDB_API_KEY, or log in with `wandb login`")
    if not reachable():
        raise UserError(f"W&B's server {server()} does not answer: call this where there is a network")
    refused = []
    for run in found.values():
        try:
            _sync_run(run)
        except UserError as error:
            refused.append(str(error))
    if refused:
        raise UserError("; ".join(refused))


def _runs_below(path: Path) -> Iterator[Path]:
    """The runs at a path or in folders below it that hold anything of W&B's."""
    if not path.is_dir():
        raise UserError(f"there is no run at {path}")
    below = (folder.parent for folder in sorted(path.rglob("wandb")) if folder.is_dir())
    found = [path] if (path / "wandb").is_dir() else [run for run in below if segments(run)]
    if not found:
        raise UserError(
            f"no run at or below {path} has anything of W&B's: was it trained with --trainer.logger WandbLogger?"
        )
    yield from found


def _sync_run(run: Path) -> None:
    if run_lock.is_held(run):  # its last start is not whole
        print(f"{run}: is being trained, passed over")
        return
    elsewhere = {segment.folder.name for place in other_places(run) for segment in segments(place)}
    kept = [segment for segment in segments(run) if segment.folder.name not in elsewhere]
    offline = [segment for segment in kept if segment.offline]
    waiting = [segment for segment in offline if not segment.synced]
    empty = [segment for segment in waiting if segment.is_empty()]
    for segment in waiting:
        if segment not in empty:
            _send(segment)
    own = (run / "run_id").read_text().strip() if (run / "run_id").exists() else ""
    online = [s for s in kept if s.identity == own and not (s.offline or s.synced or s.is_empty())]
    if online:
        _complete(run, online[0])
    said = {
        "sent": len(waiting) - len(empty),
        "sent before": len(offline) - len(waiting),
        "empty": len(empty),
        "completed": int(bool(online)),
        "of the run that this is a copy of": len(elsewhere & {segment.folder.name for segment in segments(run)}),
    }
    print(
        f"{run}: "
        + (", ".join(f"{count} {what}" for what, count in said.items() if count) or "nothing is left to send")
    )


def _complete(run: Path, segment: Segment) -> None:
    """Opens the W&B run of an online start once more, and tells it what it lacks of what the run directory holds.

    Raises:
        UserError: W&B does not take it.
    """
    from lightning_gen.wandb_run import WandbRun, settings

    begun = segment.run()
    same = {"entity": begun.entity or None, "project": begun.project, "name": begun.display_name or None}
    given = {**same, "group": begun.run_group or None, "mode": "online", "settings": {"silent": True}}
    logger = WandbRun(**settings(run, segment.identity, given, begun.job_type, list(begun.tags)))
    logger.catch_up(run)
    logger.finish()
    if not logger.complete:
        raise UserError(f"W&B did not take what it lacks of {run}: nothing is lost, call this again")
    for one in segments(run):
        if one.identity == segment.identity and not one.offline:
            one.mark_synced()


def _send(segment: Segment) -> None:
    """Has W&B's client send one start.

    Raises:
        UserError: it was not sent.
    """
    command = [sys.executable, "-m", "wandb", "sync", str(segment.folder.resolve())]
    others = {key: value for key, value in os.environ.items() if key != "WANDB_MODE"}
    environment = {**_BOUNDED, "WANDB_DIR": str(segment.folder.parents[1]), **others}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if not segment.synced:
        lines = [line.removeprefix("wandb: ").strip() for line in (done.stdout + done.stderr).splitlines()]
        failed = [line for line in lines if "rror" in line or "ail" in line] or lines or ["no word"]
        raise UserError(f"W&B did not take {segment.folder} ({failed[-1][:200]}): nothing is lost, call this again")
