"""Entering a run directory: what a verb goes on from there, and what it refuses."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_gen.attempts import other_places
from lightning_gen.errors import UserError
from lightning_gen.generative_module import CHECKPOINT_KEY
from lightning_gen.loading import open_checkpoint, read_checkpoint
from lightning_gen.refusals import options
from lightning_gen.run_directory import (
    checkpoint_files,
    differences,
    new_run,
    newest_whole,
    refuse_dangling,
    run_id,
    run_of,
)

_RUN = "LIGHTNING_GEN_RUN"
"""Environment variable by which rank zero tells the ranks it starts which run directory it has made."""

_HOW_IT_IS_JUDGED = (
    "seed",
    *(f"data.init_args.{key}" for key in ("root", "download", "batch_size", "micro_batch_size", "eval_batch_size")),
    *(f"data.init_args.{key}" for key in ("num_workers", "prefetch")),
    *(f"model.init_args.{key}" for key in ("eval_draws", "compile", "sampler", "bound", "imputer")),
)
"""Keys of a recipe, with all below them, that change neither what has been trained nor what it is judged on."""


def choose_directory(
    verb: str, run: str | None, ckpt_path: str | None, name: str, num_nodes: int = 1
) -> tuple[Path, bool]:
    """(the run directory, whether it was made just now): the one given, that of the checkpoint, or a new one for `fit`.

    Raises:
        UserError: nothing says which, or several processes would each make their own.
    """
    if run is not None:
        return Path(run), False
    if ckpt_path and verb != "fit":
        return run_of(Path(ckpt_path)), False
    if verb != "fit":
        raise UserError(f"{verb} needs --run DIR or --ckpt_path FILE")
    if os.environ.get("LOCAL_RANK", "0") != "0" and _RUN in os.environ:
        return Path(os.environ[_RUN]), False  # started by rank zero, which has chosen
    sizes = [os.environ.get(variable, "1") for variable in ("WORLD_SIZE", "SLURM_NTASKS")]
    if num_nodes > 1 or any(size.isdigit() and int(size) > 1 for size in sizes):  # started by a cluster or torchrun
        raise UserError("several processes of one run must be told their directory: give --run DIR")
    made = new_run(name)
    os.environ[_RUN] = str(made)
    return made, True


@dataclass(frozen=True)
class Entry:
    """What a verb found in a run directory.

    Attributes:
        identity: the run's id, or a new one.
        checkpoint: what is gone on from, or judged; None for a run from the start.
        step: of that checkpoint.
        newest: the newest checkpoint there was, whole or not.
    """

    identity: str
    checkpoint: str | None = None
    step: int = 0
    newest: str | None = None


def enter(verb: str, run: Path, config: dict[str, Any], recipe: dict[str, Any], ckpt_path: str | None) -> Entry:
    """Finds the checkpoint that `verb` goes on from (`fit`) or judges.

    Args:
        config: the whole config at hand, as primitives.
        recipe: of model and data, what a checkpoint written now would hold.
        ckpt_path: the checkpoint asked for; the run's newest whole one by default.

    Raises:
        UserError: the directory, or the checkpoint, belongs to another config (what differs is shown); the run has gone
            on from the checkpoint asked for; there is no checkpoint where one is needed, or all are damaged.
    """
    refuse_dangling(run / "checkpoints")
    own = run / "config.yaml"
    if verb == "fit" and own.exists():
        different = differences(_config(own), config)
        if different:
            raise UserError(
                f"{run} belongs to another config ({_shown(different)}): give another --run, and --init_from {run} to start "
                "from its weights"
            )
    # every byte of it is read: not where another is judged
    files = checkpoint_files(run)
    there = files[0].name if files else None
    newest = None if verb != "fit" and ckpt_path else newest_whole(files)
    if verb == "fit" and ckpt_path and newest is not None and Path(ckpt_path).resolve() != newest.resolve():
        raise UserError(
            f"{run} has a checkpoint of its own, {newest.name}: resume it without --ckpt_path, or begin a new run from the "
            f"weights of {ckpt_path} with --init_from"
        )
    if verb != "fit" and not ckpt_path and newest is None:
        raise UserError(f"{run} holds no checkpoint: is it a run directory, and has the run begun?")
    chosen = ckpt_path or (None if newest is None else str(newest))
    if chosen is None:
        return Entry(_identity(run), newest=there)
    checkpoint = read_checkpoint(ckpt_path) if newest is None else open_checkpoint(chosen)
    different = differences(checkpoint[CHECKPOINT_KEY]["recipe"], recipe)
    if verb != "fit":
        free = tuple(f"{key}." for key in _HOW_IT_IS_JUDGED)
        different = {key: values for key, values in different.items() if not f"{key}.".startswith(free)}
    if different:
        raise UserError(f"{chosen} was trained as something else ({_shown(different)})")
    return Entry(_identity(run), chosen, int(checkpoint["global_step"]), there)


def _identity(run: Path) -> str:
    """The run's id, or a new one: also of a copy whose original is there, with which it would share a W&B run."""
    own = run_id(run)
    return secrets.token_hex(4) if any(run_id(place) == own for place in other_places(run)) else own


def _config(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged: delete it, and the run takes the config at hand for its own")
    return content


def _shown(different: dict[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{key}: {old!r} there, {new!r} here" for key, (old, new) in different.items())


def with_own_config(verb: str, args: list[str]) -> list[str]:
    """The arguments with the run's own config where they name none; a verb that judges then uses one device."""
    named = any(option in ("c", "config", "model") for option, _ in options(args))
    runs = [value for option, value in options(args) if option == "run"]
    if named or not runs or not (Path(runs[-1]) / "config.yaml").exists():
        return args
    here = [] if verb == "fit" else ["--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
    return ["--config", str(Path(runs[-1]) / "config.yaml"), *here, *args]
