"""The plots of a grid: what stands in its cells."""

import math
from pathlib import Path

import pytest

from lightning_gen.benchmark.grid import Plan
from lightning_gen.benchmark.plots import curves, heat_map, moving, sheets
from lightning_gen.comparison.metrics import BITS, FD
from lightning_gen.comparison.models import Model
from lightning_gen.comparison.records import Record
from lightning_gen.comparison.standing import stand

AXES = {"schedule": ["s", "t"], "target": ["p", "q"]}


@pytest.fixture
def grid():
    axes = {axis: {value: {} for value in values} for axis, values in AXES.items()}
    plan = Plan("bench", Path("experiment.yaml"), axes)
    fds = {"s-p": [2.0, 4.0], "s-q": [5.0, 5.0], "t-p": [9.0, 8.0], "t-q": [math.nan, 1.0]}

    def record(name, fd, seed):
        return Record(name, Path(f"/none/{name}-{seed}.json"), {"fd": fd}, {"extractor": "digits"}, name, seed)

    models = [
        Model(cell.name, tuple(record(cell.name, fd, seed) for seed, fd in enumerate(fds[cell.name])), cell.values)
        for cell in plan.cells()
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


def test_a_likelihood_that_no_solver_moves_has_a_map_of_the_trainings_alone(swept):
    plan, standing = swept(["a", "b"])
    axes = heat_map(standing, plan, FD).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["ddim-5", "ddim-10", "heun-5", "heun-10"]
    axes = heat_map(standing, plan, BITS).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b"] and len(axes.texts) == 2
    plan, standing = swept([])
    assert moving(standing, plan, FD) == ["solver", "nfe"] and moving(standing, plan, BITS) == []


def test_sheets_of_baselines_stand_below_way_by_way(swept):
    plan, standing = swept([])
    titles = [axes.get_title() for axes in sheets(standing, plan).axes]
    assert titles == [
        *("ddim-5  20", "ddim-10  10", "heun-5  24", "heun-10  9"),
        *("floor  1", ""),
        *("gaussian-ddim-5  50", "gaussian-ddim-10  30", "gaussian-heun-5  60", "gaussian-heun-10  40"),
    ]


def test_a_training_is_one_curve_however_often_it_is_measured(swept, tmp_path):
    plan, standing = swept(["a", "b"])
    for model in standing.models:
        for record in model.records:
            metrics = record.file.parent.parent / "metrics.csv"
            metrics.parent.mkdir(parents=True, exist_ok=True)
            metrics.write_text("step,images_seen,train/loss\n1,10,2.0\n2,20,1.0\n")
    left = curves(standing.models, plan).axes[0]
    assert [line.get_label() for line in left.lines] == ["a", "b"]
