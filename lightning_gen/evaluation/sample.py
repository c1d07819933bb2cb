"""lightning-gen sample RUN: a sheet of samples from a run or a bare checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lightning_gen import loading
from lightning_gen.errors import UserError
from lightning_gen.evaluation import measure
from lightning_gen.evaluation.evaluate import pick_device, progress
from lightning_gen.pictures import save_samples
from lightning_gen.specs import overridden


def sample(
    run: str,
    num: int = 64,
    out: str | None = None,
    weights: str = "ema",
    seed: int = 0,
    batch_size: int = 256,
    device: str = "auto",
    sampler: dict[str, Any] | None = None,
) -> Path:
    """A picture of samples: FILE.png, or the samples themselves as a tensor where the name ends in .pt.

    Args:
        run: a run directory (its newest checkpoint) or a checkpoint file.
        num: samples drawn; sample i depends on (seed, i) alone.
        out: the file; RUN/samples/sample.png by default.
        weights: "ema", "ema:DECAY" or "raw".
        seed: of the noise.
        batch_size: samples at a time.
        device: "auto", "cpu", "cuda", ...
        sampler: replaces fields of the model's sampler, such as {"init_args": {"steps": 20}}.
    """
    if num < 1:
        raise UserError(f"at least one sample must be drawn, not {num}")
    path = Path(out) if out else loading.folder_of(run) / "samples" / "sample.png"
    if path.suffix not in (".png", ".pt"):
        raise UserError(f"samples go to a .png (a picture) or a .pt (a tensor), not to {path.name!r}")
    module = loading.load(run, weights).to(pick_device(device))
    chosen = overridden(getattr(module, "sampler", None), sampler)
    with progress("sampling", num) as advance:
        drawn = measure.samples(module, num, batch_size, seed, sampler=chosen, advance=advance)
        x = torch.cat([batch.cpu() for batch in drawn])
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pt":
        torch.save(x, path)
    else:
        save_samples(x, module.levels, path)
    return path
