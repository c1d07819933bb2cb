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
import hashlib
import io
import itertools
import json
import os
import re
import secrets
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_gen.errors import UserError
from lightning_gen.run_lock import alone


class DamagedCheckpoint(UserWarning):
    """A checkpoint was passed over for the one before it."""


CHECKPOINT_KEY = "lightning_gen"
"""Where a checkpoint holds the recipe (resolved model and data config, as primitives) and the weight averages."""

OWN_NAME = re.compile(r"step_\d{8,}\.ckpt")
"""Names of the checkpoints that this project writes, removes and resumes from."""

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
    "model.init_args.lr_schedule.init_args.total_steps",
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
    """Files named as the run's checkpoints are, newest first; others' files have other names."""
    return sorted((f for f in (run / "checkpoints").glob("step_*.ckpt") if OWN_NAME.fullmatch(f.name)), reverse=True)


def damage(file: Path) -> str | None:
    """The fault of a file that torch.save wrote, None for a whole one: every byte is checked by its CRC, about 1 GB/s."""
    try:
        with zipfile.ZipFile(file) as container:
            part = container.testzip()
        return None if part is None else f"{part} in it is not what was written"
    except Exception as error:  # a flipped bit of the directory can mean encryption, other compression, any size
        return f"{file.stat().st_size if file.is_file() else 0} bytes, {error}"


def foreign(checkpoint: Path) -> str | None:
    """Why a file cannot be the checkpoint that its name says, as the end of a sentence; None for one that can. Reads its
    directory of tensors alone.
    """
    if not checkpoint.is_file():
        return f"is a link to {checkpoint.readlink()}, which is not there" if checkpoint.is_symlink() else "is no file"
    import torch

    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        if CHECKPOINT_KEY not in content:
            return "is another program's"
        step = content["global_step"]
    except Exception as error:
        return f"cannot be read as a checkpoint ({type(error).__name__})"
    return None if checkpoint.stem == f"step_{step:08d}" else f"has another name than its step, {step}"


def newest_whole(files: list[Path]) -> Path | None:
    """The first of these checkpoints that is whole and what its name says; a warning for each one passed over. None of none.

    Raises:
        UserError: there are checkpoints, and none is whole.
    """
    broken = []
    for file in files:
        wrong = foreign(file) if not file.is_file() or (harm := damage(file)) is None else f"is damaged ({harm})"
        if wrong is None:
            for other, why in broken:
                warnings.warn(f"{other} {why}: going on from {file.name}", DamagedCheckpoint, stacklevel=2)
            return file
        broken.append((file, wrong))
    if broken:
        raise UserError(f"{broken[0][0]} {broken[0][1]}, and there is no whole checkpoint before it")
    return None


def refuse_dangling(path: Path) -> None:
    """Raises UserError where the path, or a folder above it, is a link to nothing: what is there has only gone out of reach."""
    for place in (path, *path.absolute().parents):
        if place.is_symlink() and not place.exists():
            raise UserError(
                f"{place} is a link to {place.readlink()}, which is not there: mount it, or delete the link"
            )


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The whole checkpoint that `path` means: itself, or the newest whole one of a run directory.

    Raises:
        UserError: if there is none.
    """
    path = Path(path)
    if path.is_file():
        if (wrong := damage(path)) is not None:
            raise UserError(f"{path} cannot be read as a checkpoint, it is damaged or something else ({wrong})")
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
        sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure of matplotlib's whole, or not at all."""
    with written_whole(path) as partial:
        figure.savefig(partial, bbox_inches="tight")


@contextmanager
def written_together(folder: Path, stem: str, endings: Iterable[str]) -> Iterator[Path]:
    """A folder where files STEM+ENDING are written first. Then they replace those of `folder`, in the order of the endings,
    and what was not written goes; an error leaves `folder` as it was. Two processes do this one after the other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{stem}.", suffix=".partial", dir=folder))
    try:
        yield partial
        with alone(folder):
            for ending in endings:
                if (partial / f"{stem}{ending}").exists():
                    sync(partial / f"{stem}{ending}")
                    os.replace(partial / f"{stem}{ending}", folder / f"{stem}{ending}")
                else:
                    (folder / f"{stem}{ending}").unlink(missing_ok=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """JSON content with its SHA-256 as the last entry."""
    return {**content, "sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def unsealed(content: dict[str, Any]) -> dict[str, Any]:
    """The content without its SHA-256; content without one as it is. Raises ValueError where it has changed since."""
    own = {key: value for key, value in content.items() if key != "sha256"}
    if len(own) < len(content) and sealed(own)["sha256"] != content["sha256"]:
        raise ValueError("its sha256 does not fit the rest of it")
    return own


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


def set_aside(file: Path) -> None:
    """Renames what stands in the place of a file of the run and is not what was written there; says so."""
    aside = next(p for k in itertools.count(1) if not os.path.lexists(p := file.with_name(f"{file.name}.aside-{k}")))
    file.rename(aside)
    warnings.warn(f"{file} is not what was written: it is {aside.name} now, and begins again", stacklevel=3)


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
