"""Models from checkpoints alone: no config file, no command line."""

from __future__ import annotations

import importlib
import os
import re
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lightning_gen.errors import UserError
from lightning_gen.generative_module import CHECKPOINT_KEY, SCHEMA, GenerativeModule
from lightning_gen.run_directory import find_checkpoint, run_of
from lightning_gen.specs import build


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The checkpoint a path means (a file, or a run directory's newest), on the CPU; every byte is checked by its CRC.

    Raises:
        UserError: if there is none, or it is damaged or not one of ours.
    """
    return open_checkpoint(find_checkpoint(path))


def open_checkpoint(file: str | os.PathLike[str]) -> dict[str, Any]:
    """`read_checkpoint` of a file that is known to be whole."""
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise UserError(f"{file} cannot be read as a checkpoint ({type(error).__name__})") from error
    ours = checkpoint.get(CHECKPOINT_KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(ours, dict) or not ours.get("recipe"):
        raise UserError(f"{file} does not say how to rebuild its model: lightning_gen's command line did not write it")
    if ours["schema"] > SCHEMA:
        raise UserError(f"{file} has schema {ours['schema']}; this version reads up to {SCHEMA}")
    return checkpoint


def load(path: str | os.PathLike[str], weights: str = "ema") -> GenerativeModule:
    """Rebuilds a model of any family from a run directory or a checkpoint, in eval mode, on the CPU.

    The tensors are read with `weights_only=True`, but to build the model is to import the modules that the checkpoint's
    recipe names and to call their classes: load only checkpoints that you would trust as code.

    Args:
        path: a run directory (its newest checkpoint) or a checkpoint file.
        weights: "ema", the first average (the raw weights, said by a warning, where the run kept none); "ema:0.9999", a
            named one; "raw", none.

    The module's `weights` says what it holds in the end. Raises UserError for a missing or foreign checkpoint, one that
    does not fit its model, or an average that it does not hold.
    """
    return from_checkpoint(read_checkpoint(path), weights, name=str(path))


def from_checkpoint(checkpoint: dict[str, Any], weights: str = "ema", name: str = "the checkpoint") -> GenerativeModule:
    """`load` of a checkpoint already read."""
    ours = checkpoint[CHECKPOINT_KEY]
    module: GenerativeModule = _rebuilt(ours["recipe"]["model"], GenerativeModule, **ours["data"])
    module.recipe, module.seed = ours["recipe"], ours["recipe"].get("seed", 0)
    module.symbols = ours.get("symbols")  # earlier checkpoints do not say
    module.configure_model()
    module.weights = fill(module, checkpoint, weights, name)
    return module.eval()


def fill(
    module: GenerativeModule, checkpoint: dict[str, Any], weights: str = "ema", name: str = "the checkpoint"
) -> str:
    """Gives a built module the checkpoint's weights: "raw", "ema" or "ema:DECAY" as in `load`; returns which they are.

    Raises:
        UserError: they do not fit the module, or there is no such average.
    """
    chosen: dict[str, torch.Tensor] = {}
    label = "raw"
    averages = checkpoint[CHECKPOINT_KEY].get("averages", {}).get("weights", {})
    if weights != "raw":
        kind, _, decay = weights.partition(":")
        if kind != "ema":
            raise UserError(f"weights are 'raw', 'ema' or 'ema:DECAY', not {weights!r}")
        decay = decay or next(iter(averages), "")
        if decay in averages:
            chosen, label = averages[decay], f"ema:{decay}"
        elif ":" in weights:
            raise UserError(f"{name} holds no average {decay!r}, only {', '.join(averages) or 'raw weights'}")
        else:
            warnings.warn(f"{name} holds no averaged weights; its raw weights are used", stacklevel=4)
    try:
        module.load_state_dict(checkpoint["state_dict"])
        parameters = dict(module.named_parameters())
        with torch.no_grad():
            for key, value in chosen.items():  # into the parameter itself, which may have a second name
                parameters[key].copy_(value)
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{name} does not fit {type(module).__name__} as it is now: {_mismatch(error)}") from error
    return label


def _mismatch(error: RuntimeError | KeyError) -> str:
    """The first thing that does not fit, cut to a line, and how many more there are."""
    if isinstance(error, KeyError):
        return f"the model has no parameter {error.args[0]!r}"
    # torch's lines: a headline; then a shape each, or all keys that one side lacks, quoted, after a colon
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines[1:] if line] or lines
    first, *more = [part for line in lines for part in _each_key(line)]
    first = textwrap.shorten(first.rstrip("."), 160, placeholder=" ...")
    return f"{first} ... and {len(more)} more" if more else first


def _each_key(line: str) -> list[str]:
    """'Missing key(s) in state_dict: "a", "b".' as one entry for each key; any other line as it is."""
    found = re.fullmatch(r'(\w+ key)\(s\)( in state_dict: )(".*")\. *', line)
    return [line] if found is None else [f"{found[1]}{found[2]}{key}" for key in found[3].split(", ")]


def load_data(checkpoint: dict[str, Any]) -> Any:
    """The data module a checkpoint was trained on."""
    from lightning.pytorch import LightningDataModule

    return _rebuilt(checkpoint[CHECKPOINT_KEY]["recipe"]["data"], LightningDataModule)


def _rebuilt(spec: dict[str, Any], base: type, **given: Any) -> Any:
    """`specs.build`, which says of a module that cannot be found here what to do."""
    try:
        return build(spec, base, **given)
    except UserError as error:
        for class_path in _class_paths(spec):
            module = class_path.rpartition(".")[0]
            try:
                importlib.import_module(module or "builtins")
            except ModuleNotFoundError as missing:
                raise UserError(
                    f"the checkpoint was trained with {class_path}, and there is no module {missing.name!r} here: start in "
                    "the folder where it lies, or add that folder to PYTHONPATH"
                ) from error
            except Exception:  # `build` has said what is wrong with it
                continue
        raise


def _class_paths(spec: Any) -> Iterator[str]:
    """All the class paths in a nested spec."""
    for key, value in spec.items() if isinstance(spec, dict) else enumerate(spec if isinstance(spec, list) else ()):
        if key == "class_path":
            yield value
        yield from _class_paths(value)


def folder_of(path: str | os.PathLike[str]) -> Path:
    """The run directory that `path`, a run or a checkpoint, belongs to."""
    return Path(path) if Path(path).is_dir() else run_of(Path(path))
