"""What all tests of a benchmark share."""

from pathlib import Path

import pytest

from lightning_gen.benchmark.evaluations import Evaluation
from lightning_gen.benchmark.grid import Plan
from lightning_gen.comparison.models import Model
from lightning_gen.comparison.records import Record
from lightning_gen.comparison.standing import Standing, stand


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """A table is as wide as this, whatever the terminal that the tests are started from."""
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def ungrouped(monkeypatch):
    """No group of W&B is named, nor is afterwards the one that a run names."""
    monkeypatch.setenv("WANDB_RUN_GROUP", "of whoever came before")
    monkeypatch.delenv("WANDB_RUN_GROUP")


FDS = {("ddim", "5"): 20.0, ("ddim", "10"): 10.0, ("heun", "5"): 24.0, ("heun", "10"): 9.0}
GAUSSIAN = {("ddim", "5"): 50.0, ("ddim", "10"): 30.0, ("heun", "5"): 60.0, ("heun", "10"): 40.0}
COSTS = {("ddim", "5"): 5, ("ddim", "10"): 10, ("heun", "5"): 4, ("heun", "10"): 10}
"""A step of Heun's is two evaluations: five buy two steps."""


def _way(evaluation: Evaluation, plan: Plan) -> tuple[str, str]:
    """Where its numbers stand in `FDS`, whatever its second axis calls its values."""
    solver, number = evaluation.values.values()
    second = [str(value) for value in list(plan.evaluation_axes.values())[1]]
    return solver, ("5", "10")[second.index(number)]


@pytest.fixture
def swept(tmp_path):
    """swept(cells, seeds=1, **plan): a benchmark of two solvers at two costs, as measured, and its standing. Bits/dim depend
    on the training alone; the FD of the second cell is twice the first's, that of the second seed 2 more.
    """

    def function(cells: list[str], seeds: int = 1, **given) -> tuple[Plan, Standing]:
        axes = {"schedule": {cell: {} for cell in cells}} if cells else {}
        ways = {
            "solver": {"ddim": {"sampler.solver": "DDIM"}, "heun": {"sampler.solver": "Heun"}},
            "nfe": {"5": {"nfe": 5}, "10": {"nfe": 10}},
        }
        plan = Plan("swept", Path("net.yaml"), axes, **{"evaluation_axes": ways, **given})
        models = []
        for entry in plan.entries():
            place = plan.cells().index(entry.cell)
            way = _way(entry.evaluation, plan)
            records = []
            for seed in range(seeds):
                metrics = {"fd": FDS[way] * (place + 1) + 2 * seed, "bits_per_dim": 3.0 + place}
                metrics |= {"precision": 1 / FDS[way], "recall": 2 / FDS[way]}
                file = tmp_path / f"{entry.cell.name}-{seed}" / "evaluation" / f"{entry.evaluation.file}.json"
                records.append(Record(entry.cell.name, file, metrics, {"nfe": COSTS[way]}, entry.name, seed))
            models.append(Model(entry.name, tuple(records), entry.labels))
        fixed = [Record("floor", tmp_path / "floor.json", {"fd": 1.0, "precision": 0.9}, {"source": "data"}, "")]
        for e in plan.evaluations():
            way = _way(e, plan)
            file = tmp_path / f"gaussian-{e.name}.json"
            settings = {"nfe": COSTS[way]}
            fixed.append(Record("gaussian", file, {"fd": GAUSSIAN[way]}, settings, "", labels=e.values))
        return plan, stand(models, fixed=fixed, columns=plan.columns)

    return function
