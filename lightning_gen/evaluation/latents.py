"""lightning-gen latents RUN: pictures of a model's latents, and what they are used for, in numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_gen import loading
from lightning_gen.errors import UserError
from lightning_gen.evaluation.latent_view import LatentView, pair_columns, save_sheet
from lightning_gen.evaluation.ranks import pick_device
from lightning_gen.evaluation.subject import subject
from lightning_gen.powers import LatentVariables
from lightning_gen.run_directory import write_atomically, written_whole

_IMAGES, _POINTS = 16, 500
"""Examples on a sheet by default: of images, and of points of the plane."""

_SIDE = 20
"""Of the manifold's grid."""

_FILLINGS = 4
"""Ways in which each image's lower half is filled."""

_TEMPERATURES = (0.0, 0.3, 0.5, 0.7, 0.85, 1.0)
"""Of the columns of one sheet of samples."""


def latents(
    run: str,
    out: str | None = None,
    num: int | None = None,
    weights: str = "ema",
    split: str = "test",
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 256,
    range: float = 3.0,
    stations: int = 9,
    temperatures: list[float] = list(_TEMPERATURES),  # noqa: B006  never changed
) -> Path:
    """Sheets of reconstructions, interpolations, traversals, samples and, where the family can, imputations; latents.json.

    temperatures.png has samples at several temperatures of the sampler, each row of one draw of latents.

    Where there are two latents, manifold.png shows E[x | z] at the quantiles of the normal and encoded.png the split's
    latents, coloured by class. What a model or its data have no picture of is left out, and said. A conditional model
    gets the labels of the data; it interpolates within one class, and its traversals and manifold have the first
    example's.

    Args:
        run: a run directory (its newest checkpoint) or a checkpoint file of a model with latents.
        out: the folder; RUN/latents by default.
        num: examples on a sheet, and rows of traversals at most; 16 by default, or 500 where the data are points.
        weights: "ema", "ema:DECAY" or "raw".
        split: whose examples are encoded: test, val or train.
        seed: of the samples and of the imputations.
        device: "auto", "cpu", "cuda", ...
        batch_size: examples at a time; no picture depends on it.
        range: how far traversals go to either side of the example.
        stations: of each interpolation and traversal; an odd number has the example itself in the middle.
        temperatures: of the columns of temperatures.png: --temperatures [0.5,0.7,1].
    """
    if num is not None and num < 1:
        raise UserError(f"--num must be at least 1, not {num}")
    if batch_size < 1:
        raise UserError(f"--batch_size must be at least 1, not {batch_size}")
    if stations < 2:
        raise UserError(f"--stations must be at least 2, both ends, not {stations}")
    if not 0 < range < math.inf:
        raise UserError(f"--range must be positive, not {range}")
    if not temperatures or not all(0 <= each < math.inf for each in temperatures):
        raise UserError(f"--temperatures are numbers from 0 upwards, at least one, not {temperatures}")
    place = pick_device(device)
    checkpoint = loading.read_checkpoint(run)
    module = loading.from_checkpoint(checkpoint, weights, run).to(place)
    if not isinstance(module, LatentVariables):
        raise UserError(
            f"{type(module).__name__} has no latents to look at: give a run of a model that has, such as a VAE"
        )
    examples = loading.load_data(checkpoint).split(split)
    view = LatentView(module, examples, place, batch_size, seed)
    if not (view.z.isfinite().all() and view.squared_errors.isfinite().all()):
        raise UserError(f"{run} encodes examples as NaN or infinite: its training has diverged")
    num = min(num or (_POINTS if len(module.shape) == 1 else _IMAGES), len(examples))
    folder = Path(out) if out else loading.folder_of(run) / "latents"
    sheets: dict[str, tuple[Callable[[], Tensor], int | None]] = {
        "reconstructions": (lambda: view.reconstructions(num), pair_columns(num)),
        "interpolations": (lambda: view.interpolations(num, stations), None),
        "traversals": (lambda: view.traversals(num, range, stations), None),
        "samples": (lambda: view.samples(num), math.ceil(math.sqrt(num))),
        "temperatures": (lambda: view.temperatures(num, temperatures), None),
        "imputations": (lambda: view.imputations(num, _FILLINGS), None),
    }
    if module.latents == 2:
        sheets["manifold"] = (lambda: view.manifold(_SIDE), _SIDE)
        with _anew(folder / "encoded.png") as path:
            _scatter(view.z, examples.y, path)
    left_out = {}
    for name, (drawn, columns) in sheets.items():
        try:
            with _anew(folder / f"{name}.png") as path:
                save_sheet(drawn(), module.levels, path, columns)
        except UserError as reason:
            left_out[name] = str(reason)
            print(f"no {name}.png: {reason}")
    metrics = {
        "mean_squared_error": view.squared_errors.mean().item(),
        "active_units": view.active_units,
        "latents": module.latents,
        "variance_of_encoded_mean": view.variances.tolist(),
    }
    settings = {
        **subject(checkpoint, run),
        "weights": module.weights,
        "split": split,
        "num_examples": len(examples),
        "num": num,
        "seed": seed,
        "range": range,
        "stations": stations,
        "temperatures": temperatures,
    }
    numbers = {"metrics": metrics, "settings": settings, "left_out": left_out}
    write_atomically(folder / "latents.json", json.dumps(numbers, indent=1) + "\n")
    print("  ".join(f"{key} {metrics[key]:g}" for key in ("mean_squared_error", "active_units", "latents")))
    return folder


def _anew(path: Path) -> AbstractContextManager[Path]:
    """Where a picture is written; an older one goes at once."""
    path.unlink(missing_ok=True)
    return written_whole(path)


def _scatter(z: Tensor, y: Any, path: Path) -> None:
    """Latents [N, 2] in the plane, coloured by class where y holds classes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), dpi=120)
    axes, size = figure.subplots(), min(20.0, max(3.0, 6000 / len(z)))
    labels = None if y is None else torch.as_tensor(y[:])
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        axes.scatter(*z.T.numpy(), s=size, alpha=0.6, linewidths=0)
    else:
        for label in labels.unique().tolist():
            axes.scatter(*z[labels == label].T.numpy(), s=size, alpha=0.6, linewidths=0, label=str(label))
        axes.legend(markerscale=2, fontsize=8)
    axes.set(xlabel="first latent", ylabel="second latent", aspect="equal")
    figure.savefig(path, bbox_inches="tight")
