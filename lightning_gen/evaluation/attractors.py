"""lightning-gen attractors MODEL: where images go that are denoised again and again, as a sheet and in numbers."""

from __future__ import annotations

import errno
import json
import math
import os
import tempfile
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from lightning_gen import loading
from lightning_gen.errors import UserError
from lightning_gen.evaluation.provenance import provenance
from lightning_gen.evaluation.ranks import pick_device
from lightning_gen.evaluation.subject import subject
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.pictures import save_film
from lightning_gen.powers import Attractors, Denoising
from lightning_gen.random_source import IndexedSource
from lightning_gen.run_directory import write_atomically, written_whole
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
    batch_size: int = 256,
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
        batch_size: examples at a time.
        device: "auto", "cpu", "cuda", ...
    """
    if num < 1 or batch_size < 1:
        raise UserError(f"at least one image must be iterated: got --num {num} and --batch_size {batch_size}")
    if not 0 <= noise < math.inf or not (sigma is None or 0 < sigma < math.inf):
        raise UserError(f"noise levels are positive and finite: got --noise {noise} and --sigma {sigma}")
    path = Path(out) if out else _default_path(model, data, split)
    if path.suffix != ".png":
        raise UserError(f"the sheet goes to a .png, not to {path.name!r}")
    place = pick_device(device)
    module, datamodule, settings = _opened(model, data, init_args, weights, place)
    _try(path)
    train, examples = (datamodule.split(name) for name in ("train", split))
    num = min(num, len(examples))
    how = {"sigma": sigma, "eta": eta, "steps": steps, "tolerance": tolerance}
    stations = [0, *takewhile(lambda step: step < steps, (2**k for k in range(steps.bit_length())))]
    training, shown, measured = Training(module, train.x, place), [], []
    for first in range(0, num, batch_size):
        rows = range(first, min(first + batch_size, num))
        x = torch.as_tensor(examples.x[rows.start : rows.stop]).to(place)
        y = None if examples.y is None else torch.as_tensor(examples.y[rows.start : rows.stop]).to(place)
        clean = module.to_floats(x)
        start = clean + noise * IndexedSource(seed, rows, place).normal(clean.shape)
        kept = max(0, min(_SHOWN - first, len(rows)))
        found = module.attractors(start, y=y, **how, stations=stations if kept else ())
        nearest = training.nearest(found.points)
        measured.append(per_example(found, clean, start, nearest, training.mean))
        if kept:
            row = [clean, *found.stations.unbind(1), found.points, nearest]
            shown.append(torch.stack([module.to_data(each[:kept]) for each in row], 1).cpu())
    numbers = {
        "metrics": summary(measured),
        "settings": {
            **settings,
            **how,
            "sigma": found.sigma,
            "data": type(datamodule).__name__,
            "levels": datamodule.levels,
            "split": split,
            "split_fingerprint": examples.fingerprint(),
            "train_fingerprint": train.fingerprint(),
            "num": num,
            "noise": noise,
            "seed": seed,
            "batch_size": batch_size,
            "device": place.type,
            **provenance(),
        },
    }
    with written_whole(path) as partial:
        save_film(torch.cat(shown), datamodule.levels, partial)
    write_atomically(path.with_suffix(".json"), json.dumps(numbers, indent=1, allow_nan=False) + "\n")
    print("  ".join(f"{key} {round(value, 4):g}" for key, value in numbers["metrics"].items()))
    return path


class Training:
    """A training set [N, *shape], in its own domain, among the floats of a model.

    Attributes:
        mean: of its examples, floats [*shape].
    """

    def __init__(self, module: Denoising, x: Any, device: torch.device | str = "cpu") -> None:
        self.module, self.x, self.device = module, x, device
        self.mean = (sum(part.double().sum(0) for part in self._parts()) / len(x)).float()

    def _parts(self) -> Iterator[Tensor]:
        for first in range(0, len(self.x), _CHUNK):
            yield self.module.to_floats(torch.as_tensor(self.x[first : first + _CHUNK]).to(self.device))

    def nearest(self, points: Tensor) -> Tensor:
        """The example that is nearest to each of points [B, *shape], floats [B, *shape]."""
        best, nearest = points.new_full((len(points),), torch.inf), torch.empty_like(points)
        for part in self._parts():
            distance, index = torch.cdist(points.flatten(1), part.flatten(1)).min(1)
            closer = distance < best
            best[closer], nearest[closer] = distance[closer], part[index[closer]]
        return nearest


def per_example(found: Attractors, clean: Tensor, start: Tensor, nearest: Tensor, mean: Tensor) -> dict[str, Tensor]:
    """What is measured of each of B examples, float64 [B]."""

    def apart(other: Tensor) -> Tensor:
        return (found.points - other).flatten(1).double().square().mean(1).sqrt()

    return {
        "converged": found.converged.double(),
        "steps": found.steps.double(),
        "residual": found.residual.double(),
        "distance_to_start": apart(start),
        "distance_to_original": apart(clean),
        "distance_to_nearest_training": apart(nearest),
        "distance_to_training_mean": apart(mean),
    }


def summary(batches: list[dict[str, Tensor]]) -> dict[str, float]:
    """Means over the examples of all batches, and the largest residual."""
    whole = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
    return {
        **{key: values.mean().item() for key, values in whole.items()},
        "residual_max": whole["residual"].max().item(),
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
        settings = {"model": type(module).__name__, "weights": module.weights, **subject(checkpoint, model)}
        return _denoising(module.to(device)), datamodule, settings
    from lightning.pytorch import LightningDataModule

    import lightning_gen.families  # noqa: F401  so that the class may go by its bare name

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
    return module.eval(), datamodule, {"model": type(module).__name__, "init_args": init_args or {}}


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


def _try(path: Path) -> None:
    """Makes the folder of a file that will be written; refuses, before the work, where it could not be."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another --out") from error
