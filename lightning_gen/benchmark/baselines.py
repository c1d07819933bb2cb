"""The rows that no cell trains: real data, noise, and models with a closed form."""

from __future__ import annotations

from pathlib import Path

from lightning_gen.benchmark.cell import Job, device_of, worker
from lightning_gen.benchmark.grid import Plan


def measure_baselines(plan: Plan, folder: Path, job: Job) -> None:
    """Writes baselines/NAME.json: the floor (real data), the ceiling (uniform noise) and the plan's closed forms.

    The data and the protocol are those of the cells, read off one cell's checkpoint.
    """
    with worker(folder / "baselines" / "log.txt"):
        _measure(plan, folder / "baselines", job)


def _measure(plan: Plan, target: Path, job: Job) -> None:
    import torch

    from lightning_gen import loading
    from lightning_gen.evaluation.judge import Judge
    from lightning_gen.evaluation.protocol import Protocol
    from lightning_gen.generative_module import GenerativeModule
    from lightning_gen.specs import build

    data = loading.load_data(loading.read_checkpoint(job.run))
    judge = Judge(data, Protocol.of(plan.evaluation), device_of(job.run))
    for name, measured in judge.baselines(plan.floor).items():
        measured.write(target, name, data.levels)
    train = data.split("train")
    for name, spec in plan.baselines.items():
        given = {key: getattr(data, key) for key in ("shape", "levels", "num_classes")}
        module = build(spec, GenerativeModule, **given)
        module.initialize(train.x.to(judge.device), None if train.y is None else train.y.to(judge.device))
        with torch.no_grad():
            judge.of_model(module).write(target, name, data.levels)
