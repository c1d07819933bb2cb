"""The plots of a grid: what stands in its cells."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from lightning_gen.benchmark.grid import Cell
from lightning_gen.benchmark.plots import heat_map, sheets
from lightning_gen.comparison.metrics import FD
from lightning_gen.comparison.models import Model
from lightning_gen.comparison.records import Record
from lightning_gen.comparison.standing import stand

AXES = {"schedule": ["s", "t"], "target": ["p", "q"]}


@pytest.fixture
def grid():
    cells = [Cell(f"{s}-{p}", {"schedule": s, "target": p}, {}) for s in AXES["schedule"] for p in AXES["target"]]
    plan = SimpleNamespace(name="bench", axes={axis: dict.fromkeys(values) for axis, values in AXES.items()})
    plan.cells = lambda: cells
    fds = {"s-p": [2.0, 4.0], "s-q": [5.0, 5.0], "t-p": [9.0, 8.0], "t-q": [math.nan, 1.0]}

    def record(name, fd, seed):
        return Record(name, Path(f"/none/{name}-{seed}.json"), {"fd": fd}, {"extractor": "digits"}, name, seed)

    models = [
        Model(cell.name, tuple(record(cell.name, fd, seed) for seed, fd in enumerate(fds[cell.name])), cell.values)
        for cell in cells
    ]
    return plan, stand(models, fixed=[record("floor", 1.5, None)])


def test_a_heat_map_is_of_the_means(grid):
    plan, standing = grid
    axes = heat_map(standing, plan, FD).axes[0]
    found = {tuple(map(round, text.get_position())): text.get_text() for text in axes.texts}
    assert found == {(0, 0): "3", (1, 0): "5", (0, 1): "8.5"}  # across, down
    assert "mean of 2 seeds, lower is better" in axes.get_title() and "floor 1.5" in axes.get_xlabel()


def test_a_sheet_says_of_which_seed_its_number_is(grid):
    plan, standing = grid
    titles = [axes.get_title() for axes in sheets(standing, plan).axes]
    assert titles[:3] == ["s-p, seed 0:  2", "s-q, seed 0:  5", "t-p, seed 0:  9"] and "floor  1.5" in titles
