"""lightning-gen evaluate RUN: what a run or a bare checkpoint is worth, as JSON that says how it was measured."""

from __future__ import annotations

import functools
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_gen import loading
from lightning_gen.errors import UserError
from lightning_gen.evaluation import measure
from lightning_gen.evaluation.extractors import Extractor
from lightning_gen.evaluation.frechet import Reference, frechet_distance
from lightning_gen.evaluation.protocol import Protocol
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import Likelihood
from lightning_gen.run_directory import write_atomically, write_csv
from lightning_gen.specs import build, describe, overridden

SHEET = 64
"""Samples kept for the picture beside the numbers."""


@dataclass(frozen=True)
class Measured:
    """What one evaluation gives: numbers, how they were measured, a few samples, and the likelihood of each example."""

    metrics: dict[str, float]
    settings: dict[str, Any]
    samples: Tensor
    likelihood: Likelihood | None = None

    def write(self, folder: Path, name: str, levels: int | None) -> Path:
        """folder/NAME.json, NAME.png, and NAME.csv with the per-example terms; the JSON comes last, when all is there."""
        from lightning_gen.pictures import save_samples

        try:
            save_samples(self.samples, levels, folder / f"{name}.png")
        except UserError:  # data that have no picture
            folder.mkdir(parents=True, exist_ok=True)
        if self.likelihood is not None:
            columns = {"log_prob_nats": self.likelihood.log_prob, **self.likelihood.terms}
            rows = ([i, *row] for i, row in enumerate(zip(*(c.tolist() for c in columns.values()))))
            write_csv(folder / f"{name}.csv", ["index", *columns], rows)
        content = {"metrics": self.metrics, "settings": self.settings}
        write_atomically(folder / f"{name}.json", json.dumps(content, indent=2) + "\n")
        return folder / f"{name}.json"


class Judge:
    """Measures any number of models on one data set under one protocol; reference and extractor are made once."""

    def __init__(self, data: Any, protocol: Protocol, device: torch.device | str = "cpu") -> None:
        self.data, self.device = data, device
        spec = protocol.extractor or data.extractor
        if spec is None:
            raise UserError(f"{type(data).__name__} names no extractor: give one, as --extractor")
        self.extractor: Extractor = build(spec, Extractor).to(device)
        self.split = self._split(protocol.reference)
        self.protocol = replace(protocol, num_samples=protocol.num_samples or len(self.split))
        batches = (self.split.x[i] for i in torch.arange(len(self.split)).split(protocol.batch_size))
        self.reference = Reference.from_moments(measure.moments(batches, data.levels, self.extractor))

    def _split(self, name: str) -> Any:
        try:
            return self.data.split(name)
        except KeyError as error:
            raise UserError(f"{type(self.data).__name__} has no split {name!r}") from error

    def settings(self) -> dict[str, Any]:
        """What holds for every model judged here."""
        return {
            "num_samples": self.protocol.num_samples,
            "extractor": self.extractor.name,
            "extractor_digest": self.extractor.digest,
            "data": type(self.data).__name__,
            "reference": self.protocol.reference,
            "reference_count": len(self.split),
            "reference_fingerprint": self.split.fingerprint(),
            "draws": self.protocol.draws,
            "batch_size": self.protocol.batch_size,
            "seed": self.protocol.seed,
            "device": torch.device(self.device).type,  # CPU and GPU generators draw different noise
            **provenance(),
        }

    def distance(self, batches: Iterator[Tensor]) -> float:
        """Frechet distance of these data to the reference."""
        return frechet_distance(measure.moments(batches, self.data.levels, self.extractor), self.reference)

    def of_data(self, x: Tensor, label: str) -> Measured:
        """A set of data as if a model had made it: floor and ceiling rows."""
        fd = self.distance(iter(x.split(self.protocol.batch_size)))
        settings = {**self.settings(), "num_samples": len(x), "source": label, "draws": 0}
        return Measured({"fd": fd}, settings, x[:SHEET])

    def of_model(self, module: GenerativeModule, advance: measure.Advance = int) -> Measured:
        """The model's Frechet distance and likelihood."""
        protocol = self.protocol
        sampler = overridden(getattr(module, "sampler", None), protocol.sampler)
        kept: list[Tensor] = []

        def keep(batches: Iterator[Tensor]) -> Iterator[Tensor]:
            for batch in batches:
                if sum(map(len, kept)) < SHEET:
                    kept.append(batch.cpu())
                yield batch

        module.to(self.device).eval()
        drawn = measure.samples(
            module, protocol.num_samples, protocol.batch_size, protocol.seed, sampler=sampler, advance=advance
        )
        metrics = {"fd": self.distance(keep(drawn))}
        settings = {
            **self.settings(),
            "sampler": describe(sampler),
            "nfe": getattr(sampler, "nfe", None),
            "weights": module.weights,
            "likelihood_kind": None,
        }
        likelihood = None
        if protocol.draws:
            estimator = overridden(getattr(module, "bound", None), protocol.estimator)
            likelihood = measure.likelihood(
                module,
                self.split,
                protocol.batch_size,
                protocol.seed,
                protocol.draws,
                estimator=estimator,
                advance=advance,
            )
            settings["estimator"] = describe(estimator)
        if likelihood is not None:
            metrics.update(measure.likelihood_metrics(likelihood))
            settings["likelihood_kind"] = likelihood.kind
        return Measured(metrics, settings, torch.cat(kept)[:SHEET], likelihood)


@functools.cache
def provenance() -> dict[str, Any]:
    """Versions, and the commit where the package runs from its own checkout ("-dirty" with changes)."""
    from lightning_gen import __version__

    root = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(root)]
    try:
        ask = {"capture_output": True, "text": True, "timeout": 10, "check": True}
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], **ask).stdout.strip()
        commit = subprocess.run([*git, "describe", "--always", "--dirty", "--abbrev=12"], **ask).stdout.strip()
        commit = commit if Path(top).resolve() == root else None
    except (OSError, subprocess.SubprocessError):
        commit = None
    versions = {package: metadata.version(package) for package in ("torch", "lightning")}
    return {"version": __version__, **versions, "python": platform.python_version(), "commit": commit}


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU, or the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"there is no device {name!r} here ({str(error).splitlines()[0]})") from error
    return device


@contextmanager
def progress(label: str, total: int) -> Iterator[measure.Advance]:
    """A bar on a terminal, silence elsewhere."""
    if not sys.stdout.isatty():
        yield int
        return
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda n: bar.advance(task, n)


def evaluate(
    run: str,
    num_samples: int | None = None,
    name: str = "default",
    weights: str = "ema",
    reference: str = "test",
    draws: int = 16,
    seed: int = 0,
    batch_size: int = 256,
    device: str = "auto",
    extractor: dict[str, Any] | None = None,
    sampler: dict[str, Any] | None = None,
    estimator: dict[str, Any] | None = None,
) -> Path:
    """FD and likelihood of a run or a bare checkpoint, as RUN/evaluation/NAME.json.

    Args:
        run: a run directory (its newest checkpoint) or a checkpoint file.
        num_samples: generated samples; as many as the reference has by default.
        name: of the file written.
        weights: "ema", "ema:DECAY" or "raw".
        reference: the split that is measured against.
        draws: noise draws per example of the likelihood; 0 for no likelihood.
        seed: of all noise.
        batch_size: examples at a time.
        device: "auto", "cpu", "cuda", ...
        extractor: {"class_path", "init_args"} of the feature space; the data set's own by default.
        sampler: replaces fields of the model's sampler, such as {"init_args": {"steps": 20}}.
        estimator: the same for the likelihood.
    """
    protocol = Protocol(num_samples, reference, extractor, sampler, estimator, draws, batch_size, seed)
    checkpoint = loading.read_checkpoint(run)
    module = loading.from_checkpoint(checkpoint, weights, name=run)
    judge = Judge(loading.load_data(checkpoint), protocol, pick_device(device))
    total = judge.protocol.num_samples + (len(judge.split) if draws else 0)
    with progress("evaluating", total) as advance:
        measured = judge.of_model(module, advance)
    measured.settings["step"] = int(checkpoint["global_step"])
    path = measured.write(loading.folder_of(run) / "evaluation", name, module.levels)
    label = f"FD[{judge.extractor.name}]"
    shown = {label if k == "fd" else k: v for k, v in measured.metrics.items() if not k.endswith("_se")}
    print("  ".join(f"{key} {value:.4g}" for key, value in shown.items()))
    return path
