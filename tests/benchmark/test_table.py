"""What a benchmark gathers: a row a cell, and for data without a feature extractor a table that bits/dim rank."""

import csv
import json
import math
from types import SimpleNamespace

import pytest

from lightning_gen.benchmark.grid import Cell, Run
from lightning_gen.benchmark.table import collect
from lightning_gen.comparison.metrics import BITS
from lightning_gen.comparison.statistics import RankRange
from lightning_gen.comparison.table import markdown, write_tables
from lightning_gen.errors import UserError

SETTINGS = {
    "num_samples": None,
    "extractor": None,
    "extractor_digest": None,
    "data": "Bare",
    "reference": "test",
    "reference_fingerprint": "f",
    "reference_count": 5,
    "draws": 1,
    "seed": 0,
    "likelihood_kind": "elbo",
    "version": "1",
    "torch": "2",
    "commit": None,
}


@pytest.fixture
def plan(tmp_path):
    """plan({cell: [bits/dim of seed 0, of seed 1, ...]}, across=[]): a benchmark whose runs have been measured."""

    def function(bits, across=(), baseline=None, rank_by=None, **settings):
        runs = [Run(Cell(name, {"axis": name}, {}), seed) for name in bits for seed in range(len(bits[name]))]
        jobs = {}
        for run in runs:
            file = tmp_path / "cells" / run.name / "evaluation" / "benchmark.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            metrics = {"bits_per_dim": bits[run.cell.name][run.seed], "bits_per_dim_se": 0.1}
            how = {**SETTINGS, **settings.get(run.name, {})}
            file.write_text(json.dumps({"metrics": metrics, "settings": how}))
            jobs[run.name] = SimpleNamespace(run=file.parent.parent, result=file)
        return SimpleNamespace(
            name="bare",
            axes={"axis": {}},
            baselines={},
            baseline=baseline,
            rank_by=rank_by,
            runs=lambda: runs,
            across=lambda: list(across),
            jobs=jobs,
        )

    return function


def test_bits_per_dim_rank_and_fd_is_empty(plan, tmp_path):
    made = plan({"one": [2.5], "two": [math.nan], "three": [1.5]})
    standing = collect(made, tmp_path, made.jobs)
    assert [(row.model.name, row.rank) for row in standing.rows] == [
        ("three", RankRange(1, 1)),
        ("one", RankRange(2, 2)),
        ("two", None),
    ]
    write_tables(standing, "bare", tmp_path)
    with open(tmp_path / "table.csv") as file:
        table = list(csv.DictReader(file))
    assert [row["axis"] for row in table] == ["three", "one", "two"]
    assert {row["fd"] for row in table} == {row["num_samples"] for row in table} == {""}
    text = markdown(standing, "bare")
    assert "| 1 | three | 1.500 ± 0.100 |" in text and "bits/dim (elbo)" in text
    assert "nan" not in text and "None`" not in text and "no FD" in text


def test_a_cell_is_the_mean_of_the_seeds_that_are_done(plan, tmp_path):
    made = plan({"one": [2.0, 4.0, 9.0], "two": [1.0, 2.0, 3.0]})
    del made.jobs["one-seed2"]
    standing = collect(made, tmp_path, made.jobs)
    assert [(row.model.name, row.model.mean(BITS), row.model.seeds) for row in standing.rows] == [
        ("two", 2.0, 3),
        ("one", 3.0, 2),
    ]


def test_only_what_the_axes_change_may_differ(plan, tmp_path):
    bits, settings = {"one": [2.0], "two": [1.0]}, {"two": {"estimator": {"class_path": "Other"}}}
    made = plan(bits, **settings)
    standing = collect(made, tmp_path, made.jobs)
    assert str(standing.disagreements[0]) == "estimator is none in one and Other in two" and not standing.ranked
    assert "INCOMPARABLE" in markdown(standing, "bare")
    made = plan(bits, across=["estimator"], **settings)
    standing = collect(made, tmp_path, made.jobs)
    assert len(standing.rows) == 2 and standing.ranked and not standing.disagreements


def test_the_plan_names_baseline_and_metric(plan, tmp_path):
    bits = {"one": [2.0], "two": [1.0], "three": [3.0]}
    made = plan(bits)
    assert {row.baseline.name for row in collect(made, tmp_path, made.jobs).rows} == {"two"}
    made = plan(bits, baseline="one", rank_by="bits_per_dim")
    standing = collect(made, tmp_path, made.jobs)
    assert {row.baseline.name for row in standing.rows} == {"one"} and standing.metric is BITS
    del made.jobs["one"]
    standing = collect(made, tmp_path, made.jobs)
    assert {row.baseline.name for row in standing.rows} == {"two"}
    assert any("baseline one" in note for note in standing.notes)
    made = plan(bits, rank_by="kid")
    with pytest.raises(UserError, match="--rank_by kid"):
        collect(made, tmp_path, made.jobs)


def test_missing_runs_other_code_and_unfit_baselines_are_said(plan, tmp_path):
    made = plan({"one": [2.0, 3.0], "two": [1.0, 2.0]}, **{"two": {"commit": "x"}})
    del made.jobs["one-seed1"]
    (tmp_path / "baselines").mkdir()
    for name, reference in (("floor", "test"), ("ceiling", "val")):
        content = {"metrics": {"bits_per_dim": 1.0}, "settings": {**SETTINGS, "reference": reference}}
        (tmp_path / "baselines" / f"{name}.json").write_text(json.dumps(content))
    standing = collect(made, tmp_path, made.jobs)
    assert [record.name for record in standing.fixed] == ["floor"]
    text = markdown(standing, "bare")
    assert "failed or are not done: one-seed1." in text and "commit is" in text and "Left out: ceiling" in text
