"""The rows that no cell trains: real data, noise, and models with a closed form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning_gen.benchmark.cell import Job, device_of
from lightning_gen.benchmark.evaluations import Evaluation
from lightning_gen.benchmark.grid import Plan
from lightning_gen.benchmark.measurement import Measurement, measure
from lightning_gen.benchmark.surroundings import worker
from lightning_gen.errors import IncompatibleAxes


def measure_baselines(plan: Plan, folder: Path, job: Job) -> None:
    """Writes baselines/NAME.json: the floor (real data), the ceiling (uniform noise) and the plan's closed forms.

    The data and the protocol are those of the cells, read off one cell's checkpoint. A closed form is measured in every
    way in which the cells are, as baselines/NAME-VALUE.json; where it can be in none, for it cannot be guided, say, once
    as the plan's `evaluation` says.
    """
    with worker(folder / "baselines" / "log.txt"):
        _measure(plan, folder / "baselines", job)


def file_name(baseline: str, evaluation: Evaluation) -> str:
    """Of a closed form's numbers, without an ending."""
    return "-".join([baseline, *evaluation.values.values()])


def _measure(plan: Plan, target: Path, job: Job) -> None:
    from lightning_gen import loading
    from lightning_gen.evaluation.judge import Judge
    from lightning_gen.evaluation.provenance import digest_of_code
    from lightning_gen.generative_module import GenerativeModule
    from lightning_gen.specs import build

    data = loading.load_data(loading.read_checkpoint(job.run))
    plain = Evaluation({}, plan.evaluation)
    judge = Judge(data, plain.protocol, device_of(job.run))
    for name, measured in judge.baselines(plan.floor).items():
        measured.write(target, name, data.levels)
    train = data.split("train")

    def fitted(spec: dict[str, Any], model: str) -> GenerativeModule:
        given = {key: getattr(data, key) for key in ("shape", "levels", "num_classes")}
        module: GenerativeModule = build(spec, GenerativeModule, **given)
        module.recipe = {"model": model}  # so that what is half done is not taken for another's
        module.initialize(train.x.to(judge.device), None if train.y is None else train.y.to(judge.device))
        return module

    for name, spec in plan.baselines.items():
        model = json.dumps([[json.dumps(spec, sort_keys=True), digest_of_code()], job.training()])

        def taken(*ways: Evaluation, name: str = name, spec: dict[str, Any] = spec, model: str = model) -> dict:
            those = [Measurement(target, file_name(name, way), way, model) for way in ways]
            return measure(those, judge, lambda weights: fitted(spec, model), {}, target / f".{name}.parts")

        refused = taken(*plan.evaluations())
        if len(refused) == len(plan.evaluations()) and any(isinstance(e, IncompatibleAxes) for e in refused.values()):
            taken(plain)
