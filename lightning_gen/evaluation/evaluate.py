"""lightning-gen evaluate RUN: what a run or a bare checkpoint is worth, as JSON that says how it was measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from lightning_gen import loading
from lightning_gen.errors import UserError
from lightning_gen.evaluation import ranks
from lightning_gen.evaluation.judge import Judge
from lightning_gen.evaluation.measured import Measured
from lightning_gen.evaluation.parts import Parts
from lightning_gen.evaluation.progress import Progress
from lightning_gen.evaluation.protocol import LikelihoodProtocol, Protocol
from lightning_gen.evaluation.ranks import Ranks
from lightning_gen.evaluation.subject import subject

_RESERVED = ("test", "validate", "predict")
"""Names of what the Trainer's verbs write."""


def evaluate(
    run: str,
    num_samples: int | None = None,
    name: str = "default",
    weights: str = "ema",
    reference: str = "test",
    likelihood: LikelihoodProtocol = LikelihoodProtocol(),  # noqa: B008  frozen
    seed: int = 0,
    batch_size: int = 256,
    device: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    extractor: str | dict[str, Any] | None = None,
    sampler: str | dict[str, Any] | None = None,
    nfe: int | None = None,
) -> Path | None:
    """FD, KID, precision, recall and likelihood of a run or a bare checkpoint, as RUN/evaluation/NAME.json.

    Cut, it goes on where it was when the same command is given again.

    Args:
        run: a run directory (its newest checkpoint) or a checkpoint file.
        num_samples: generated samples; as many as the reference has by default, 0 for a likelihood alone.
        name: of the file written.
        weights: "ema", "ema:DECAY" or "raw".
        reference: the split that is measured against.
        likelihood: how the likelihood is taken.
        seed: of all noise.
        batch_size: examples at a time, on each device.
        device: "auto", "cpu", "cuda", ...
        devices: processes on each machine, one a device; no result depends on it.
        num_nodes: machines; for more than one start the command with torchrun or srun.
        extractor: of the features: digits, mnist, inception, another name of torch-fidelity's, or a class path; the data
            set's own by default. --extractor.weights FILE and other fields are its arguments.
        sampler: replaces fields of the model's sampler, such as --sampler.steps 20, or all of it: --sampler CLASS.
        nfe: network evaluations a sample may cost: the sampler takes as many steps as they buy.
    """
    if not re.fullmatch(r"\w[\w.+-]{0,99}", name) or name.endswith("_logsnr") or name in _RESERVED:
        raise UserError(
            f"--name {name!r} cannot be: letters, digits, _ . + and -, and none of {', '.join(_RESERVED)} or ..._logsnr"
        )
    if name.partition("-")[0] == "benchmark" and Path(run).resolve().parent.name == "cells":
        raise UserError(f"--name {name} is what the benchmark measured of this run: give another")
    protocol = Protocol(num_samples, reference, extractor, sampler, likelihood, batch_size, seed, nfe)
    given = {"run": run, "protocol": protocol, "name": name, "weights": weights}
    return ranks.run(_evaluate, given, device, devices, num_nodes)


def _evaluate(among: Ranks, device: torch.device, run: str, protocol: Protocol, name: str, weights: str) -> Path | None:
    checkpoint = loading.read_checkpoint(run)
    module = loading.from_checkpoint(checkpoint, weights, name=run)
    folder = loading.folder_of(run) / "evaluation"
    with Progress(among) as show:
        judge = Judge(loading.load_data(checkpoint), protocol, device, among, show)
        depends_on = judge.depends_on(module) if among.first else None
        depends_on = among.exchange(depends_on)[0]
        parts = Parts.of(folder / f".{name}.parts", depends_on, among)
        measured = judge.of_model(module, parts)
        baselines = judge.baselines()
    if not among.first:
        return None
    measured.settings.update(subject(checkpoint, run))
    measured.timing.update(judge.timing(parts))
    path = measured.write(folder, name, module.levels, baselines)
    parts.clear()
    _say(judge, measured, parts)
    return path


def _say(judge: Judge, measured: Measured, parts: Parts) -> None:
    if parts.reused:
        print(
            "taken up from an earlier attempt: " + ", ".join(f"{num} of {kind}" for kind, num in parts.reused.items())
        )
    if judge.left_out and judge.protocol.num_samples:
        print(f"{judge.left_out}: FD is left out (give --extractor)")
    metrics, label = measured.metrics, measured.settings["extractor_label"]
    names = {
        "fd": label,
        "fd_inf": "at infinite N",
        "bits_per_dim": "bits/dim" if measured.symbols is None else "bits/character",
    }
    of_likelihood = [key for key in metrics if key.endswith("_nats") or key == "bits_per_dim"]
    of_samples = [key for key in metrics if not key.endswith("_se") and key not in (*of_likelihood, "fid")]
    if of_samples:
        print("  ".join(f"{names.get(key, key)} {_with_error(metrics, key)}" for key in of_samples))
    if of_likelihood:
        of_likelihood.sort(key=lambda key: key != "bits_per_dim")  # which keeps the order of the others
        shown = [f"{names.get(key, key.removesuffix('_nats'))} {_with_error(metrics, key)}" for key in of_likelihood]
        print(f"{'  '.join(shown)} nats ({measured.settings['likelihood_kind']})")
    print(where_time_went(measured.timing))


def _with_error(metrics: dict[str, float], key: str) -> str:
    error = metrics.get(f"{key}_se")
    return f"{metrics[key]:.4g}" + ("" if error is None else f" ± {error:.2g}")


def where_time_went(timing: dict[str, Any]) -> str:
    """One line."""
    seconds = dict(timing["seconds"])
    total = seconds.pop("total")
    parts = sorted(seconds.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{what} {value / total:.0%}" for what, value in parts if value > 0.005 * total)
    rate = f", {timing['images_per_s']:.3g} samples/s" if "images_per_s" in timing else ""
    return f"{total:.1f} s{rate}: {shares}"
