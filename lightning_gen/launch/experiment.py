"""Checks of an experiment's config with its overrides, before a job waits in the queue for it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_gen.errors import UserError
from lightning_gen.launch.submission import Submission
from lightning_gen.refusals import broken_files, configs_first, options
from lightning_gen.run_directory import flatten

_SET_BY_THE_SCRIPT = ("run", "trainer.devices", "trainer.num_nodes")


def refuse(config: Path, overrides: Sequence[str], job: Submission) -> None:
    """Raises UserError for what would end a training right after its time in the queue, before it waits in the queue."""
    _refuse_words(overrides)
    broken = next(broken_files(["--config", str(config), *overrides]), None)
    if broken is not None:
        raise UserError(broken)
    for option, _ in options(overrides):
        if option in _SET_BY_THE_SCRIPT:
            raise UserError(
                f"--{option} follows from the job: leave it out, and give {_instead(option)} before the overrides"
            )
    said = settings(config, overrides)
    missing = [part for part in ("model", "data") if not any(f"{key}.".startswith(f"{part}.") for key in said)]
    if missing:
        raise UserError(
            f"{config} has no {' and no '.join(missing)}: give an experiment's config, or --{missing[0]} FILE"
        )
    refuse_devices(said, job)
    size, world = said.get("data.batch_size"), job.nodes * job.tasks_per_node
    if isinstance(size, int) and size % world:
        raise UserError(
            f"batch_size {size} does not divide among {world} tasks ({job.nodes} nodes of {job.tasks_per_node}): give other "
            "--nodes and --gpus_per_node, or --data.init_args.batch_size"
        )
    before = dict(os.environ)
    os.environ.update(job.resources.environment)
    try:
        built(["--config", str(config), *overrides])
    except UnseenData as error:
        print(f"the model is not checked, for its data are not seen here: {error}", file=sys.stderr)
    finally:
        os.environ.clear()
        os.environ.update(before)


class Built(NamedTuple):
    """The resolved config, the model with its networks on the meta device, and the data module."""

    config: dict[str, Any]
    module: Any
    data: Any


def built(args: Sequence[str]) -> Built:
    """Builds what `fit` with these arguments would train; no weights are made, and no more data are read than their shape.

    A network whose constructor reads values, which no tensor on the meta device has, is built on the CPU.

    Raises:
        UnseenData: the data's shape cannot be read on this machine.
        UserError: the line that `fit` would end with.
    """
    import torch
    from lightning.pytorch import LightningDataModule

    from lightning_gen.cli import GenerativeCLI
    from lightning_gen.diagnosis import diagnose
    from lightning_gen.generative_module import GenerativeModule
    from lightning_gen.specs import build

    printed = io.StringIO()
    try:
        with redirect_stdout(printed), suppress(SystemExit):
            GenerativeCLI("fit", [*args, "--print_config"])
        config = yaml.safe_load(printed.getvalue())
        data = build(config["data"], LightningDataModule)
        given = _seen(data)

        def made(device: str) -> GenerativeModule:
            module = build(config["model"], GenerativeModule, **given)
            with torch.device(device):  # of the networks alone: a schedule reads its own values
                module.configure_model()
            return module

        try:
            module = made("meta")
        except UserError:
            raise
        except Exception:
            module = made("cpu")
    except UnseenData:
        raise
    except Exception as error:
        line = diagnose(error, "fit", [*args])
        if line is None:
            raise
        raise UserError(line) from error
    return Built(config, module, data)


class UnseenData(UserError):
    """The data are not where the config says, on this machine: a job may have them on its own."""


def _seen(data: Any) -> dict[str, Any]:
    """The data's shape, levels and classes, with which the model is built. Raises UnseenData."""
    try:
        return {key: getattr(data, key) for key in ("shape", "levels", "num_classes")}
    except UserError as error:
        raise UnseenData(str(error)) from error


def _instead(option: str) -> str:
    return {"run": "--run DIR", "trainer.num_nodes": "--nodes"}.get(option, "--gpus_per_node (or --tasks_per_node)")


def _refuse_words(overrides: Sequence[str]) -> None:
    """Every word is an option of `fit`, or the value of the one before."""
    value_may_follow = False
    for word in overrides:
        if word.startswith("-"):
            if not word.startswith("--") and word != "-c" and not value_may_follow:
                raise UserError(f"{word!r} is no option of fit: overrides are written --key value or --key=value")
            value_may_follow = "=" not in word
        elif not value_may_follow:
            raise UserError(f"{word!r} belongs to no option: overrides are written --key value or --key=value")
        else:
            value_may_follow = False


def refuse_devices(said: dict[str, Any], job: Submission) -> None:
    """Raises UserError where the job has not the devices that these `settings` compute on."""
    accelerator, gpus = said.get("trainer.accelerator"), "gpus-per-node" in job.header()
    if accelerator == "cpu" and gpus:
        raise UserError(
            "the config computes on CPUs (trainer.accelerator) and the job asks for GPUs: give --gpus_per_node 0, or "
            "gpus_per_node in the file of --cluster, or another trainer, such as configs/trainer/gpu.yaml"
        )
    if accelerator in ("gpu", "cuda") and not gpus:
        raise UserError(
            f"the config computes on GPUs (trainer.accelerator {accelerator}) and the job asks for none: give "
            "--gpus_per_node, or gpus_per_node in the file of --cluster, or --trainer.accelerator cpu"
        )


def settings(config: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """{dotted key: value}, `init_args` left out, of the config, the files that its sections name, and the overrides."""
    found = _of_file(config)
    for option, value in options(configs_first(overrides)):
        if option in ("c", "config"):
            found |= _of_file(Path(value))
        elif value.endswith((".yaml", ".yml")):
            found |= _below(option, _load(Path(value)))
        else:
            try:
                found[_plain(option)] = yaml.safe_load(value)
            except yaml.YAMLError as error:
                raise UserError(f"--{option}: {value!r} cannot be read as a value") from error
    return found


def _of_file(path: Path) -> dict[str, Any]:
    found = {}
    for section, content in _load(path).items():
        if isinstance(content, str) and content.endswith((".yaml", ".yml")):
            content = _load(path.parent / content)
        found |= _below(section, content)
    return found


def _load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text()) or {}


def _below(section: str, content: Any) -> dict[str, Any]:
    return {_plain(key): value for key, value in flatten(content, section).items()}


def _plain(key: str) -> str:
    return key.replace(".init_args.", ".")
