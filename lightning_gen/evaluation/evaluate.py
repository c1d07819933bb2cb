"""lightning-gen evaluate RUN: what a run or a bare checkpoint is worth, as JSON that says how it was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lightning_gen import loading
from lightning_gen.evaluation import ranks
from lightning_gen.evaluation.judge import Judge
from lightning_gen.evaluation.progress import progress
from lightning_gen.evaluation.protocol import Protocol
from lightning_gen.evaluation.ranks import Ranks


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
    devices: int = 1,
    num_nodes: int = 1,
    extractor: dict[str, Any] | None = None,
    sampler: dict[str, Any] | None = None,
    estimator: dict[str, Any] | None = None,
) -> Path | None:
    """FD and likelihood of a run or a bare checkpoint, as RUN/evaluation/NAME.json.

    Args:
        run: a run directory (its newest checkpoint) or a checkpoint file.
        num_samples: generated samples; as many as the reference has by default.
        name: of the file written.
        weights: "ema", "ema:DECAY" or "raw".
        reference: the split that is measured against.
        draws: noise draws per example of the likelihood; 0 for no likelihood.
        seed: of all noise.
        batch_size: examples at a time, on each device.
        device: "auto", "cpu", "cuda", ...
        devices: processes on each machine, one a device; no result depends on it.
        num_nodes: machines; for more than one start the command with torchrun or srun.
        extractor: {"class_path", "init_args"} of the feature space; the data set's own by default.
        sampler: replaces fields of the model's sampler, such as {"init_args": {"steps": 20}}.
        estimator: the same for the likelihood.
    """
    protocol = Protocol(num_samples, reference, extractor, sampler, estimator, draws, batch_size, seed)
    given = {"run": run, "protocol": protocol, "name": name, "weights": weights}
    return ranks.run(_evaluate, given, device, devices, num_nodes)


def _evaluate(among: Ranks, device: torch.device, run: str, protocol: Protocol, name: str, weights: str) -> Path | None:
    checkpoint = loading.read_checkpoint(run)
    module = loading.from_checkpoint(checkpoint, weights, name=run)
    judge = Judge(loading.load_data(checkpoint), protocol, device, among)
    with progress("evaluating", judge.work(), among) as advance:
        measured = judge.of_model(module, advance)
    if not among.first:
        return None
    measured.settings["step"] = int(checkpoint["global_step"])
    path = measured.write(loading.folder_of(run) / "evaluation", name, module.levels)
    if judge.extractor is None:
        data = type(judge.data).__name__
        print(f"no feature extractor for {data}: FD is left out (give --extractor)")
    label = f"FD[{measured.settings['extractor']}]"
    shown = {label if k == "fd" else k: v for k, v in measured.metrics.items() if not k.endswith("_se")}
    print("  ".join(f"{key} {value:.4g}" for key, value in shown.items()))
    return path
