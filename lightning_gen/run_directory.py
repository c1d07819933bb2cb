"""The run directory: one place for everything a run makes, entered again by every restart.

config.yaml            whole and resolved
run_id                 of the W&B run, written before the first step
lock                   held by the process that trains here
attempts.csv           a row a start: when, where, from which step
checkpoints/           step_NNNNNNNN.ckpt, the newest few
metrics.csv            a row a logged step
samples/               sheets
reconstructions/       of a model with latents: originals beside what it makes of them; latents/ its pictures
density/               of a model of points in the plane: its density beside that of the data
evaluation/NAME.json   what `evaluate` measured
wandb/
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
import secrets
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_gen.errors import UserError


class DamagedCheckpoint(UserWarning):
    """A checkpoint was passed over for the one before it."""


MAY_DIFFER = (
    "run",
    "config",
    "ckpt_path",
    "weights_only",
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.logger",
    "trainer.default_root_dir",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "progress",
    "checkpoints",
    "preemption",
    "fidelity",
    "data.init_args.num_workers",
    "data.init_args.prefetch",
)
"""Keys in which a resumed run may differ from the run's own config."""


def new_run(name: str, root: Path = Path("runs")) -> Path:
    """A directory root/NAME-K that did not exist, made now; K counts from 1."""
    root.mkdir(parents=True, exist_ok=True)
    taken = [int(m[1]) for p in root.iterdir() if (m := re.fullmatch(re.escape(name) + r"-(\d+)", p.name))]
    number = max(taken, default=0) + 1
    while True:
        try:
            (root / f"{name}-{number}").mkdir()
            return root / f"{name}-{number}"
        except FileExistsError:  # another process was faster
            number += 1


def checkpoint_files(run: Path) -> list[Path]:
    """The run's checkpoints, newest first."""
    return sorted((run / "checkpoints").glob("step_*.ckpt"), reverse=True)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint file as a container, None for a whole one: every byte is checked by its CRC."""
    try:
        with zipfile.ZipFile(checkpoint) as file:
            part = file.testzip()
        return None if part is None else f"{part} in it is not what was written"
    except (zipfile.BadZipFile, EOFError, ValueError) as error:
        return f"{checkpoint.stat().st_size} bytes, {error}"


def newest_whole(files: list[Path]) -> Path | None:
    """The first of these checkpoints that is whole, saying of each one passed over that it is damaged; None of none.

    Raises:
        UserError: there are checkpoints, and all are damaged.
    """
    broken = []
    for file in files:
        wrong = damage(file)
        if wrong is None:
            for other, why in broken:
                warnings.warn(f"{other} is damaged ({why}): going on from {file.name}", DamagedCheckpoint, stacklevel=2)
            return file
        broken.append((file, wrong))
    if broken:
        raise UserError(f"{broken[0][0]} is damaged ({broken[0][1]}), and there is no whole checkpoint before it")
    return None


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The checkpoint that `path` means: itself, or the newest whole one of a run directory.

    Raises:
        UserError: if there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.exists():
        raise UserError(f"there is no run or checkpoint at {path}")
    file = newest_whole(checkpoint_files(path))
    if file is None:
        raise UserError(f"{path} holds no checkpoint: is it a run directory, and has the run begun?")
    return file


def run_of(checkpoint: Path) -> Path:
    """The run directory a checkpoint lies in, or the checkpoint's own folder where it lies alone."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def run_id(run: Path) -> str:
    """The id of a run, or a new one: eight letters and digits, unique enough for one W&B project.

    `fit` writes it to the run directory, together with the config and before the first step.
    """
    file = run / "run_id"
    return file.read_text().strip() if file.exists() else secrets.token_hex(4)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes the whole content or nothing: a reader never sees half of it, nor does one after a loss of power."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Where a file of that kind is written first, so that it is at `path` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until the disk has a file, or the names in a folder, where the system can say so of folders."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        if not path.is_dir():
            raise


def write_csv(path: Path, header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> None:
    """Writes a whole CSV file or nothing."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(itertools.chain([header], rows))
    write_atomically(path, text.getvalue())


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} to {"a.b": 1}. Lists are leaves."""
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    items: dict[str, Any] = {}
    for key, value in config.items():
        items.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return items


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys in which a resumed run's config differs from the run's own and may not: {key: (old, new)}."""
    old_items, new_items = flatten(old), flatten(new)
    return {
        key: (old_items.get(key), new_items.get(key))
        for key in sorted(old_items.keys() | new_items.keys())
        if old_items.get(key) != new_items.get(key)
        and not any(key == free or key.startswith(free + ".") for free in MAY_DIFFER)
    }
