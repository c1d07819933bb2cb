"""lightning-gen sample RUN: a sheet of samples from a run or a bare checkpoint, or a film of how they take shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lightning_gen import loading
from lightning_gen.errors import UserError
from lightning_gen.evaluation import measure, ranks
from lightning_gen.evaluation.progress import progress
from lightning_gen.evaluation.ranks import Ranks
from lightning_gen.pictures import save_film, save_samples
from lightning_gen.powers import Film
from lightning_gen.specs import overridden


def sample(
    run: str,
    num: int = 64,
    out: str | None = None,
    weights: str = "ema",
    seed: int = 0,
    batch_size: int = 256,
    device: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    sampler: str | dict[str, Any] | None = None,
    film: int = 0,
) -> Path | None:
    """A picture of samples: FILE.png, or the samples themselves as a tensor where the name ends in .pt.

    With --film they are shown on their way from noise to data: FILE.png, FILE.gif or FILE.pt.

    Args:
        run: a run directory (its newest checkpoint) or a checkpoint file.
        num: samples drawn; sample i depends on (seed, i) alone.
        out: the file; RUN/samples/sample.png, or film.png, by default.
        weights: "ema", "ema:DECAY" or "raw".
        seed: of the noise.
        batch_size: samples at a time, on each device.
        device: "auto", "cpu", "cuda", ...
        devices: processes on each machine, one a device; the samples do not depend on it.
        num_nodes: machines; for more than one start the command with torchrun or srun.
        sampler: replaces fields of the model's sampler, such as --sampler.steps 20, or all of it: --sampler CLASS.
        film: frames of a film of each sample, or 0 for the samples alone.
    """
    if num < 1:
        raise UserError(f"at least one sample must be drawn, not {num}")
    if batch_size < 1:
        raise UserError(f"--batch_size must be at least 1, not {batch_size}")
    if film < 0 or film == 1:
        raise UserError(f"--film is a number of frames, at least 2, or 0 for no film, not {film}")
    path = Path(out) if out else loading.folder_of(run) / "samples" / ("film.png" if film else "sample.png")
    if film and path.suffix not in (".png", ".gif", ".pt"):
        raise UserError(f"films go to a .png (side by side), a .gif (moving) or a .pt (a tensor), not to {path.name!r}")
    if not film and path.suffix not in (".png", ".pt"):
        raise UserError(f"samples go to a .png (a picture) or a .pt (a tensor), not to {path.name!r}")
    given = {"run": run, "path": path, "num": num, "weights": weights, "batch_size": batch_size, "seed": seed}
    return ranks.run(_sample, {**given, "sampler": sampler, "film": film}, device, devices, num_nodes)


def _sample(
    among: Ranks,
    device: torch.device,
    run: str,
    path: Path,
    num: int,
    weights: str,
    batch_size: int,
    seed: int,
    sampler: str | dict[str, Any] | None,
    film: int,
) -> Path | None:
    module = loading.load(run, weights).to(device)
    if film and not isinstance(module, Film):
        raise UserError(f"{type(module).__name__} draws its samples at one go: leave out --film")
    chosen = overridden(getattr(module, "sampler", None), sampler)
    share = among.share(num)
    with progress("sampling", len(share), among) as advance:
        how = {"sampler": chosen, "advance": among.watching(advance)}
        if film:  # its last frames are the samples
            how["draw"] = lambda num, **given: module.film(num, film, **given)
        drawn = measure.samples(module, share, batch_size, seed, **how)
        shares = among.gather([batch.cpu() for batch in drawn])
    if shares is None:
        return None
    x = torch.cat([batch for batches in shares for batch in batches])
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pt":
        torch.save(x, path)
    else:
        (save_film if film else save_samples)(x, module.levels, path)
    return path
