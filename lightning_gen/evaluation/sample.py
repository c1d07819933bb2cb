"""lightning-gen sample RUN: samples of a run or a bare checkpoint to look at, or a film of how they take shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lightning_gen import loading
from lightning_gen.display import display_of
from lightning_gen.errors import UserError
from lightning_gen.evaluation import measure, ranks
from lightning_gen.evaluation.progress import progress
from lightning_gen.evaluation.ranks import Ranks
from lightning_gen.powers import Film
from lightning_gen.run_directory import written_whole
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
    """A picture of samples, FILE.png, of text FILE.txt; or the samples themselves as a tensor, FILE.pt.

    With --film they are shown on their way from noise to data: FILE.png, FILE.gif or FILE.pt, of text FILE.txt or FILE.pt.

    Args:
        run: a run directory (its newest checkpoint) or a checkpoint file.
        num: samples drawn; sample i depends on (seed, i) alone.
        out: the file; RUN/samples/sample.png, or film.png, by default, of text sample.txt, or film.txt.
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
    path = Path(out) if out else None
    if path and film and path.suffix not in (".png", ".gif", ".txt", ".pt"):
        ways = "a .png (side by side), a .gif (moving), a .txt (of text) or a .pt (a tensor)"
        raise UserError(f"films go to {ways}, not to {path.name!r}")
    if path and not film and path.suffix not in (".png", ".txt", ".pt"):
        raise UserError(f"samples go to a .png (a picture), a .txt (text) or a .pt (a tensor), not to {path.name!r}")
    given = {"run": run, "path": path, "num": num, "weights": weights, "batch_size": batch_size, "seed": seed}
    return ranks.run(_sample, {**given, "sampler": sampler, "film": film}, device, devices, num_nodes)


def _sample(
    among: Ranks,
    device: torch.device,
    run: str,
    path: Path | None,
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
    display = display_of(module.levels, module.symbols)
    path = path or loading.folder_of(run) / "samples" / (("film" if film else "sample") + display.suffix)
    endings = (*(display.film_suffixes if film else (display.suffix,)), ".pt")
    if path.suffix not in endings:
        what = "pictures" if module.symbols is None else "text"
        raise UserError(f"what {run} draws is shown as {what}: give an --out that ends in {' or '.join(endings)}")
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
    if path.suffix == ".pt":
        with written_whole(path) as partial:
            torch.save(x, partial)
    else:
        (display.save_film if film else display.save)(x, path)
    return path
