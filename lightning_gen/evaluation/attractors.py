"""lightning-gen attractors MODEL: where images go that are denoised again and again, as a sheet and in numbers."""

from __future__ import annotations

import json
import os
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from lightning_gen import loading
from lightning_gen.errors import UserError
from lightning_gen.evaluation.ranks import pick_device
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.pictures import save_film
from lightning_gen.powers import Attractors, Denoising
from lightning_gen.random_source import IndexedSource
from lightning_gen.run_directory import write_atomically
from lightning_gen.specs import build, nested

_CHUNK = 4096
"""Training images that are compared at a time."""

_SHOWN = 16
"""Examples on the sheet, at most."""


def attractors(
    model: str,
    data: str | None = None,
    init_args: dict[str, Any] | None = None,
    out: str | None = None,
    split: str = "test",
    num: int = 64,
    noise: float = 0.0,
    sigma: float | None = None,
    eta: float = 1.0,
    steps: int = 100,
    tolerance: float = 1e-4,
    weights: str = "ema",
    seed: int = 0,
    device: str = "auto",
) -> Path:
    """Iterates x <- x - eta (x - D(x)) from a split's images: FILE.png, and FILE.json beside it.

    The sheet has a row for each example: as it is, with its noise, at stations on its way, at its end, and the training
    image that is nearest to that end. Distances and residuals are root mean squares over the dimensions, in the units
    of sigma: pixels lie in [-1, 1].

    Args:
        model: a run directory (its newest checkpoint), a checkpoint file, or with --data the class of a model in closed
            form, such as lightning_gen.dae.OptimalDAE, which is made from the training set.
        data: config file or class of the data of a closed form; a run has its own.
        init_args: further settings of a closed form: --init_args.rank 20.
        out: the file; MODEL/attractors/SPLIT.png by default, or runs/attractors/CLASS.png.
        split: where the images are taken from: test, val or train.
        num: how many.
        noise: standard deviation of the noise that is added to them.
        sigma: noise level at which the denoiser is asked; the least that the model knows by default.
        eta: of the step.
        steps: at most.
        tolerance: residual at which an example has come to rest.
        weights: "ema", "ema:DECAY" or "raw".
        seed: of the noise.
        device: "auto", "cpu", "cuda", ...
    """
    if num < 1:
        raise UserError(f"at least one image must be iterated, not {num}")
    if noise < 0 or (sigma is not None and sigma <= 0):
        raise UserError(f"noise levels are positive: got --noise {noise} and --sigma {sigma}")
    path = Path(out) if out else _default_path(model, data, split)
    if path.suffix != ".png":
        raise UserError(f"the sheet goes to a .png, not to {path.name!r}")
    place = pick_device(device)
    module, datamodule, settings = _opened(model, data, init_args, weights, place)
    train, examples = (datamodule.split(name) for name in ("train", split))
    x = torch.as_tensor(examples.x[:num]).to(place)
    y = None if examples.y is None else torch.as_tensor(examples.y[:num]).to(place)
    clean = module.to_floats(x)
    start = clean + noise * IndexedSource(seed, range(len(x)), place).normal(clean.shape)
    stations = [0, *takewhile(lambda step: step < steps, (2**k for k in range(steps.bit_length())))]
    how = {"sigma": sigma, "eta": eta, "steps": steps, "tolerance": tolerance}
    found = module.attractors(start, y, **how, stations=stations)
    rest = Neighbours(module, train.x, found.points)
    numbers = {
        "metrics": measured(found, clean, start, rest),
        "settings": {
            **settings,
            **how,
            "split": split,
            "num": len(x),
            "noise": noise,
            "seed": seed,
        },
    }
    shown = [clean, *found.stations.unbind(1), found.points, rest.nearest]
    _save(torch.stack([module.to_data(each[:_SHOWN]) for each in shown], 1).cpu(), datamodule.levels, path)
    write_atomically(path.with_suffix(".json"), json.dumps(numbers, indent=1) + "\n")
    told = {key: round(value, 4) for key, value in numbers["metrics"].items()}
    print("  ".join(f"{key} {value:g}" for key, value in told.items()))
    return path


class Neighbours:
    """What of a training set is nearest to points [B, *shape].

    Attributes:
        nearest: the training examples themselves, floats [B, *shape].
        mean: of the training set, [*shape].
    """

    def __init__(self, module: Denoising, train: Any, points: Tensor) -> None:
        best = points.new_full((len(points),), torch.inf)
        self.nearest, total = torch.empty_like(points), torch.zeros_like(points[0], dtype=torch.float64)
        for first in range(0, len(train), _CHUNK):
            part = module.to_floats(torch.as_tensor(train[first : first + _CHUNK]).to(points.device))
            total += part.double().sum(0)
            distance, index = torch.cdist(points.flatten(1), part.flatten(1)).min(1)
            closer = distance < best
            best[closer], self.nearest[closer] = distance[closer], part[index[closer]]
        self.mean = (total / len(train)).to(points.dtype)


def measured(found: Attractors, clean: Tensor, start: Tensor, rest: Neighbours) -> dict[str, float]:
    """Means over the examples, but for `residual_max`."""

    def apart(a: Tensor, b: Tensor) -> float:
        return (a - b).flatten(1).square().mean(1).sqrt().mean().item()

    return {
        "converged": found.converged.double().mean().item(),
        "steps": found.steps.double().mean().item(),
        "residual": found.residual.mean().item(),
        "residual_max": found.residual.max().item(),
        "distance_to_start": apart(found.points, start),
        "distance_to_original": apart(found.points, clean),
        "distance_to_nearest_training": apart(found.points, rest.nearest),
        "distance_to_training_mean": apart(found.points, rest.mean[None]),
    }


def _default_path(model: str, data: str | None, split: str) -> Path:
    if data is not None:
        return Path("runs") / "attractors" / f"{model.rpartition('.')[2]}.png"
    return loading.folder_of(model) / "attractors" / f"{split}.png"


def _opened(
    model: str, data: str | None, init_args: dict[str, Any] | None, weights: str, device: torch.device
) -> tuple[Any, Any, dict[str, Any]]:
    """The model, its data module, and what is to be said of them."""
    if data is None:
        if init_args:
            raise UserError("--init_args are of a closed form: name its class and give --data, or leave them out")
        checkpoint = loading.read_checkpoint(model)
        module, datamodule = loading.from_checkpoint(checkpoint, weights, model), loading.load_data(checkpoint)
        step = int(checkpoint["global_step"])
        settings = {"model": Path(loading.folder_of(model)).resolve().name, "step": step, "weights": module.weights}
        return _denoising(module.to(device)), datamodule, settings
    from lightning.pytorch import LightningDataModule

    datamodule = build(_spec(data), LightningDataModule)
    given = {key: getattr(datamodule, key) for key in ("shape", "levels", "num_classes")}
    module = build({"class_path": model, **nested(init_args or {})}, GenerativeModule, **given)
    _denoising(module).configure_model()
    if list(module.parameters()):
        raise UserError(
            f"{model} must be trained: --data goes with a closed form, such as lightning_gen.dae.OptimalDAE"
        )
    train = datamodule.split("train")
    labels = None if train.y is None else torch.as_tensor(train.y[:]).to(device)
    module.to(device).initialize(torch.as_tensor(train.x[:]).to(device), labels)
    return module.eval(), datamodule, {"model": model, "init_args": init_args or {}, "data": data}


def _denoising(module: GenerativeModule) -> GenerativeModule:
    if not isinstance(module, Denoising):
        raise UserError(f"{type(module).__name__} is no denoising autoencoder: its attractors cannot be iterated")
    return module


def _spec(data: str) -> dict[str, Any]:
    """A data module's config from a file or a class path."""
    if not data.endswith((".yaml", ".yml")):
        return {"class_path": data}
    try:
        content = yaml.safe_load(Path(data).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"--data {data} cannot be read as a config: {error}") from error
    if not isinstance(content, dict) or "class_path" not in content:
        raise UserError(f"--data {data} names no class_path of a data module")
    return content


def _save(x: Tensor, levels: int | None, path: Path) -> None:
    """The sheet, whole or not at all."""
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        save_film(x, levels, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
