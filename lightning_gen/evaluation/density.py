"""lightning-gen density RUN: a model's density in the plane beside that of its data, as a picture and in numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_gen import loading
from lightning_gen.errors import NoLikelihood, UserError
from lightning_gen.evaluation import measure
from lightning_gen.evaluation.density_view import (
    Square,
    labels_of,
    log_density,
    mean_with_error,
    overestimates,
    portrait,
)
from lightning_gen.evaluation.likelihoods import estimator_of
from lightning_gen.evaluation.progress import progress
from lightning_gen.evaluation.provenance import provenance
from lightning_gen.evaluation.ranks import pick_device
from lightning_gen.evaluation.subject import subject
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import Likelihood
from lightning_gen.run_directory import write_atomically, written_whole
from lightning_gen.specs import describe

_EXACT_AT_ONCE = 8192
"""Points at which the data's own density is taken at a time."""


def density(
    run: str,
    out: str | None = None,
    num: int = 5000,
    side: int = 200,
    range: float | None = None,
    split: str = "test",
    weights: str = "ema",
    seed: int = 0,
    device: str = "auto",
    batch_size: int = 2000,
    estimator: str | dict[str, Any] | None = None,
    draws: int = 16,
) -> Path:
    """density.png: the data's density where it is known, the model's and its samples; and density.json with numbers.

    For models of points in the plane that have a likelihood: a flow's is exact, a VAE's or a diffusion's a bound or an
    estimate, as `likelihood_kind` and the picture say. A conditional model's is that of the mixture of its labels, all of
    one weight. Where the data's own density is known, kl_nats is KL(data || model), the mean of log p - log p_model over
    the split; with a lower bound it is an upper one. An estimate with noise shows as speckles, and has no integral, which
    would come out too high, the exponential being convex; the mixture of labels is then a lower bound. --estimator
    ProbabilityFlowLikelihood of a diffusion (exact in the plane) and ImportanceWeightedBound of a VAE (whose integral is at
    most 1 in expectation), or more --draws, give a clearer picture.

    Args:
        run: a run directory (its newest checkpoint) or a checkpoint file.
        out: the folder; RUN/density by default.
        num: samples shown.
        side: points of the grid along each axis.
        range: how far the grid goes to either side of the data's middle; as far as they, and a quarter more, by default.
        split: whose examples the log-density is averaged over: test, val or train.
        weights: "ema", "ema:DECAY" or "raw".
        seed: of the samples and of the likelihood's noise.
        device: "auto", "cpu", "cuda", ...
        batch_size: points at a time; no result depends on it.
        estimator: replaces fields of the model's bound, such as --estimator.steps 100, or all of it: --estimator CLASS.
        draws: noise draws a point, of densities that are no exact ones.
    """
    for name, value, least in (("num", num, 1), ("side", side, 2), ("batch_size", batch_size, 1), ("draws", draws, 1)):
        if value < least:
            raise UserError(f"--{name} must be at least {least}, not {value}")
    if range is not None and not 0 < range < math.inf:
        raise UserError(f"--range must be positive, not {range}")
    place = pick_device(device)
    checkpoint = loading.read_checkpoint(run)
    module = loading.from_checkpoint(checkpoint, weights, run).to(place)
    if module.shape != (2,) or module.levels is not None:
        what = "real vectors" if module.levels is None else f"integers of {module.levels} levels"
        raise UserError(
            f"only points of the plane have a density to draw, and {run} is a model of {what} of shape {module.shape}: "
            "give a run on data of shape (2,) such as datamodules.TwoMoons, or measure this one with evaluate"
        )
    bound = estimator_of(module, estimator, "--estimator")
    data = loading.load_data(checkpoint)
    examples = data.split(split)
    x = examples.take(torch.arange(len(examples))).x
    square, labels = Square.around(x, side, range), labels_of(module)
    with progress("density", (len(x) + side**2) * len(labels)) as advance:
        how = {"batch_size": batch_size, "seed": seed, "draws": draws, "estimator": bound, "advance": advance}
        try:
            of_split = log_density(module, x, **how)
        except NoLikelihood as reason:
            raise NoLikelihood(f"{reason}, hence no density to draw: give a run of a family that has one") from reason
        of_grid = log_density(module, square.points(), **how)
    if not (of_grid.log_prob < math.inf).all():
        raise UserError(
            f"the density of {run} is NaN or infinite at points of the grid: give an earlier checkpoint, or other --weights"
        )
    samples = _sampled(module, num, batch_size, seed)
    model, exact = square.density(of_grid.log_prob), _exact(data, x, square)
    left_out, metrics = {}, _of_split(of_split, exact)
    if overestimates(module, square.points(), seed, draws, bound):
        left_out["integral"] = "the log-density is estimated with noise, whose exponential is too high in the mean"
    else:
        metrics = {"integral": square.integral(model), **metrics}
    if exact is not None:
        metrics["integral_of_data"] = square.integral(exact.on_grid)
    settings = {
        **subject(checkpoint, run),
        "model": type(module).__name__,
        "weights": module.weights,
        "data": type(data).__name__,
        "split": split,
        "split_fingerprint": examples.fingerprint(),
        "num_examples": len(examples),
        "likelihood_kind": of_split.kind,
        "estimator": describe(bound),
        "draws": draws,
        "labels_in_mixture": None if labels == [None] else len(labels),
        "grid": {"side": side, "limits": square.limits},
        "num": num,
        "sampler": describe(getattr(module, "sampler", None)),
        "seed": seed,
        "device": place.type,
        **provenance(),
    }
    folder = Path(out) if out else loading.folder_of(run) / "density"
    whose = {} if exact is None else {f"data, exact\nentropy {metrics['entropy_nats']:.3f} nats": exact.on_grid}
    shown = {f"{num} samples of the model\n": samples} | ({} if exact else {f"{len(x)} examples ({split})\n": x})
    figure = portrait(square, {**whose, _title(settings, metrics): model}, shown)
    with written_whole(folder / "density.png") as path:
        figure.savefig(path)
    numbers = {"metrics": metrics, "settings": settings, "left_out": left_out}
    write_atomically(folder / "density.json", json.dumps(numbers, indent=1, allow_nan=False) + "\n")
    print("  ".join(f"{key} {round(value, 4):g}" for key, value in metrics.items()) + f"  ({of_split.kind})")
    return folder


class _Exact(NamedTuple):
    """The data's own log-density at the examples, nats [N], its density on the grid [side, side], its entropy in nats."""

    at_examples: Tensor
    on_grid: Tensor
    entropy: float


def _exact(data: Any, x: Tensor, square: Square) -> _Exact | None:
    """None of data whose density is not known."""
    if not (hasattr(data, "log_density") and hasattr(data, "entropy")):
        return None
    at, grid = (torch.cat([data.log_density(p) for p in each.split(_EXACT_AT_ONCE)]) for each in (x, square.points()))
    return _Exact(at.double(), square.density(grid), float(data.entropy()))


def _of_split(model: Likelihood, exact: _Exact | None) -> dict[str, float]:
    """Means over the split, nats, each with its standard error; the entropy is no estimate."""
    name = "elbo_nats" if model.kind.endswith("elbo") else "log_prob_nats"
    metrics = mean_with_error(name, model.log_prob)
    if exact is None:
        return metrics
    return {**metrics, "entropy_nats": exact.entropy, **mean_with_error("kl_nats", exact.at_examples - model.log_prob)}


def _sampled(module: GenerativeModule, num: int, batch_size: int, seed: int) -> Tensor:
    """[num, 2], on the CPU."""
    with progress("sampling", num) as advance:
        return torch.cat([x.cpu() for x in measure.samples(module, range(num), batch_size, seed, advance=advance)])


def _title(settings: dict[str, Any], metrics: dict[str, float]) -> str:
    labels = settings["labels_in_mixture"]
    what = f"model, {settings['likelihood_kind']}" + ("" if labels is None else f", mixture of {labels} labels")
    of_data = f"KL {metrics['kl_nats']:.3f} nats, " if "kl_nats" in metrics else ""
    integral = f"integral {metrics['integral']:.3f}" if "integral" in metrics else "no integral: noisy"
    return f"{what}\n{of_data}{integral}"
