"""The W&B run of a run directory: one id over all restarts, and never a reason for a run to stop or to wait."""

from __future__ import annotations

import netrc
import os
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

FINISH_S = 60
"""Seconds that the end of a run waits for what is not yet sent; `wandb sync` sends the rest."""


class WandbRun(WandbLogger):
    """Lightning's logger with this project's x-axes, which goes on offline where W&B cannot be had.

    Every row carries `step` (optimizer steps), against which W&B plots, and on training's rows `images_seen` beside it.
    """

    @property
    def experiment(self) -> Any:
        if self._experiment is None and not self._offline and rank_zero_only.rank == 0:
            import wandb

            try:
                return self._begin()
            except (wandb.errors.Error, OSError) as error:  # a wrong key, a server that went away
                reason = " ".join(str(error).split())[:200]
                print(f"W&B cannot be used ({reason}): this run is kept offline", file=sys.stderr)
                wandb.teardown()  # its service holds the run's id
                self._offline, self._wandb_init["mode"] = True, "offline"
        return self._begin()

    def _begin(self) -> Any:
        new = self._experiment is None
        if self._wandb_init.get("anonymous", "") is None:
            del self._wandb_init["anonymous"]  # wandb warns of it, even of None
        run = super().experiment
        if new and hasattr(run, "define_metric"):
            run.define_metric("step")
            run.define_metric("*", step_metric="step", step_sync=True)
        return run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({**metrics, **({} if step is None else {"step": step})}, step)


def has_key() -> bool:
    """Whether W&B could log in without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(_server()) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def reachable(timeout: float = 2.0) -> bool:
    """Whether W&B's server, or the proxy on the way to it, answers within `timeout` seconds; to look its name up counts."""
    answered = threading.Event()

    def knock() -> None:
        try:
            socket.create_connection(_first_stop(), timeout).close()
            answered.set()
        except (OSError, ValueError):  # nobody there, or no address
            pass

    # In a thread: the look-up of a name has no timeout of its own, and takes many seconds where there is no network.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(timeout)
    return answered.is_set()


def _url() -> SplitResult:
    url = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    return urlsplit(url if "://" in url else f"https://{url}")


def _address(url: SplitResult) -> tuple[str, int]:
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def _server() -> str:
    return _url().hostname or ""


def _first_stop() -> tuple[str, int]:
    """(host, port) that the way to W&B's server begins with: the proxy of its scheme, where one is set and it not exempt."""
    url = _url()
    server = _address(url)
    proxy = getproxies().get(url.scheme)
    if not proxy or proxy_bypass("{}:{}".format(*server)):
        return server
    return _address(urlsplit(proxy if "://" in proxy else f"http://{proxy}"))


def complete(logger: Any, run: Path, identity: str, job_type: str, tags: list[str], group: str | None = None) -> None:
    """Gives a WandbLogger named in a config (and no other) what it lacks, in place.

    Args:
        logger: `trainer.logger` as parsed: one logger, a list of them, or none.
        identity, job_type, tags, group: of the W&B run; what the config says itself stays.
    """
    for one in logger if isinstance(logger, list) else [logger]:
        if not (getattr(one, "class_path", None) or "").endswith("WandbLogger"):
            continue
        given = {**one.init_args.as_dict(), **(one.get("dict_kwargs") or {})}
        whole = settings(run, identity, given, job_type, tags, group)
        known = one.init_args.as_dict().keys()
        for key in whole.keys() & known:
            one.init_args[key] = whole[key]
        one.dict_kwargs = {key: value for key, value in whole.items() if key not in known}
        one.class_path = f"{WandbRun.__module__}.{WandbRun.__qualname__}"


def settings(
    run: Path, identity: str, given: dict[str, Any], job_type: str, tags: list[str], group: str | None = None
) -> dict[str, Any]:
    """The arguments of a logger that lives in the run directory, resumes, and neither asks nor waits for anything."""
    given = {key: value for key, value in given.items() if value is not None}
    offline = _offline(given)
    if offline:
        given.pop("mode", None)  # WandbLogger says it through the environment, which this would override
    return {
        "project": "lightning_gen",
        "name": run.name,
        "tags": tags,
        "group": os.environ.get("WANDB_RUN_GROUP") or group,
        "job_type": job_type,
        **given,
        "offline": offline,
        "save_dir": str(run),
        "id": identity,
        "resume": "allow",
        "log_model": False,
        "settings": {**_patience(), **given.get("settings", {})},
    }


def _offline(given: dict[str, Any]) -> bool:
    """Whether the run must be kept offline. One that is disabled need not: it is no run, and nothing is written of it."""
    mode = given.get("mode") or os.environ.get("WANDB_MODE")
    if mode == "disabled":
        return False
    if given.get("offline") or mode in ("offline", "dryrun") or not has_key():
        return True
    if rank_zero_only.rank != 0 or reachable():
        return False
    print(f"W&B's server {_server()} does not answer: this run is kept offline", file=sys.stderr)
    return True


def _patience() -> dict[str, Any]:
    """W&B's settings that bound its waiting, those that the installed version has."""
    import wandb

    wanted = {"init_timeout": 20.0, "login_timeout": 10.0, "finish_timeout": float(FINISH_S)}
    return {key: value for key, value in wanted.items() if key in wandb.Settings.model_fields}
