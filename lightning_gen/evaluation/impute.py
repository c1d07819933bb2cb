"""lightning-gen impute RUN: holes of real examples filled by a model, as a sheet, as tensors and in numbers."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_gen import loading
from lightning_gen.display import Display, display_of
from lightning_gen.errors import UserError
from lightning_gen.evaluation.holes import Mask, filled, imputing, known_of, side_by_side
from lightning_gen.evaluation.progress import progress
from lightning_gen.evaluation.provenance import provenance
from lightning_gen.evaluation.ranks import pick_device
from lightning_gen.evaluation.subject import subject
from lightning_gen.run_directory import write_atomically, written_whole
from lightning_gen.specs import build, describe, nested, overridden


def impute(
    run: str,
    out: str | None = None,
    num: int = 16,
    fillings: int = 4,
    mask: str | dict[str, Any] = "LowerHalf",
    imputer: str | dict[str, Any] | None = None,
    weights: str = "ema",
    split: str = "test",
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 256,
) -> Path:
    """Cuts holes into a split's first examples and has a model fill them: imputations.png (of text .txt), .pt and .json.

    A row of the sheet has an example, the same with its holes in blue, and its fillings. imputations.pt holds x, known
    (true where nothing is missing) and fillings [num, fillings, *shape]. The numbers compare what stands in the holes
    with what was cut out: of integers accuracy, the share that is the same, and of all but text mean_squared_error of
    single fillings, in the data's units, and of the mean of an example's; _n says how many were compared. Fillings are
    samples: those of a perfect model have twice the squared error of the best guess, to which their mean comes near. A
    conditional model gets the labels of the data.

    Args:
        run: a run directory (its newest checkpoint) or a checkpoint file of a model that can fill holes.
        out: the folder; RUN/imputations by default.
        num: examples.
        fillings: ways in which each is filled; way k of example i depends on (seed, i, k) alone.
        mask: what is missing: LowerHalf, UpperHalf, LeftHalf, RightHalf (of a sequence the second or the first half), or
            --mask Centre and --mask Random, with --mask.share 0.9.
        imputer: replaces fields of the model's imputer, such as --imputer.resamplings 20, or all of it: --imputer CLASS.
        weights: "ema", "ema:DECAY" or "raw".
        split: whose examples are filled: test, val or train.
        seed: of the fillings and of random holes.
        device: "auto", "cpu", "cuda", ...
        batch_size: fillings at a time; no filling depends on it.
    """
    for name, value in (("num", num), ("fillings", fillings), ("batch_size", batch_size)):
        if value < 1:
            raise UserError(f"--{name} must be at least 1, not {value}")
    cut = mask_of(mask)
    place = pick_device(device)
    checkpoint = loading.read_checkpoint(run)
    module = loading.from_checkpoint(checkpoint, weights, run).to(place)
    model, chosen = imputing(module), overridden(getattr(module, "imputer", None), imputer)
    data = loading.load_data(checkpoint)
    examples = data.split(split)
    num = min(num, len(examples))
    batch = examples.take(torch.arange(num))
    x, y = batch.x, batch.y
    known = known_of(cut, num, module.shape, seed)
    with progress("filling holes", num * fillings) as advance:
        how = {"imputer": chosen, "seed": seed, "batch_size": batch_size, "device": place, "advance": advance}
        ways = filled(model, x, known, y, fillings, **how)
    metrics = compared(x, known, ways, quantities=module.symbols is None)
    settings = {
        **subject(checkpoint, run),
        "model": type(module).__name__,
        "weights": module.weights,
        "data": type(data).__name__,
        "levels": module.levels,
        "split": split,
        "split_fingerprint": examples.fingerprint(),
        "num": num,
        "fillings": fillings,
        "mask": describe(cut),
        "imputer": describe(chosen),
        "seed": seed,
        "device": place.type,
        **provenance(),
    }
    folder = Path(out) if out else loading.folder_of(run) / "imputations"
    display = None if module.levels is None else display_of(module.levels, module.symbols)
    _write(folder, x, known, ways, display)
    numbers = {"metrics": metrics, "settings": settings}
    write_atomically(folder / "imputations.json", json.dumps(numbers, indent=1) + "\n")
    print("  ".join(f"{key} {value:.4g}" for key, value in metrics.items() if not key.endswith("_n")))
    return folder


def mask_of(spec: str | dict[str, Any]) -> Mask:
    """The mask that a command line names.

    Raises:
        UserError: settings without a class, or what cannot be built of them.
    """
    spec = nested({"class_path": spec} if isinstance(spec, str) else spec)
    if "class_path" not in spec:
        setting = next(iter(spec["init_args"]), "...")
        raise UserError(f"--mask.{setting} is a setting of which mask? Name its class too: --mask Random, say")
    return build(spec, Mask)


def compared(x: Tensor, known: Tensor, fillings: Tensor, quantities: bool = True) -> dict[str, float]:
    """What fillings [B, num, *shape] have in the holes of `known`, bool [B, *shape], against the original x [B, *shape].

    Means over all holes of all examples, and of how many numbers they are.

    Args:
        quantities: the data measure something; the indices of symbols do not, and have no squared error.
    """
    holes = ~known
    truth, ways = x[holes].double(), fillings.transpose(0, 1)[:, holes].double()  # [H], [num, H]
    metrics: dict[str, float] = {}
    if not x.is_floating_point():
        metrics |= {"accuracy": (ways == truth).double().mean().item(), "accuracy_n": ways.numel()}
    if not quantities:
        return metrics
    of_mean = (ways.mean(0) - truth).square()
    return metrics | {
        "mean_squared_error": (ways - truth).square().mean().item(),
        "mean_squared_error_n": ways.numel(),
        "mean_squared_error_of_mean": of_mean.mean().item(),
        "mean_squared_error_of_mean_n": of_mean.numel(),
    }


def _write(folder: Path, x: Tensor, known: Tensor, fillings: Tensor, display: Display | None) -> None:
    """imputations.pt, and what `display` shows of them, where it can; an older sheet goes.

    Args:
        display: of integers; None of real vectors, whose holes cannot be shown.
    """
    file = io.BytesIO()  # torch.save would write the file's name into it
    torch.save({"x": x, "known": known, "fillings": fillings}, file)
    write_atomically(folder / "imputations.pt", file.getvalue())
    for suffix in (".png", ".txt"):
        (folder / f"imputations{suffix}").unlink(missing_ok=True)
    if display is not None:
        with suppress(UserError), written_whole(folder / f"imputations{display.suffix}") as partial:
            display.save_film(side_by_side(x, known, fillings), partial)
