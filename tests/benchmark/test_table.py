"""What a benchmark gathers: a row a cell, and for data without a feature extractor a table that bits/dim rank."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_gen.benchmark.grid import Plan
from lightning_gen.benchmark.request import jobs_of
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
def plan(tmp_path, monkeypatch):
    """plan({cell: [bits/dim of seed 0, of seed 1, ...]}, across=[]): a benchmark whose runs have been measured; its jobs."""
    monkeypatch.setattr(Plan, "recipe", lambda self: "recipe")

    def function(bits, across=(), baseline=None, rank_by=None, given=None, **settings):
        given = dict(given or {})
        axes = {"axis": {name: {key: 1 for key in across} for name in bits}}
        columns = list(given.pop("columns", []))
        made = Plan("bare", Path("bare.yaml"), axes, baseline=baseline, rank_by=rank_by, columns=columns, **given)
        made = replace(made, seeds=list(range(max(map(len, bits.values())))))
        jobs = jobs_of(made, tmp_path)
        for run in made.runs():
            for measurement in jobs[run.name].measurements():
                if run.seed >= len(bits[run.cell.name]):
                    continue
                measurement.folder.mkdir(parents=True, exist_ok=True)
                metrics = {"bits_per_dim": bits[run.cell.name][run.seed], "bits_per_dim_se": 0.1}
                how = {**SETTINGS, **settings.get(run.name, {}), **settings.get(measurement.name, {})}
                measurement.file.write_text(json.dumps({"metrics": metrics, "settings": how}))
                measurement.close()
        return made, jobs

    return function


def test_bits_per_dim_rank_and_fd_is_empty(plan, tmp_path):
    made, jobs = plan({"one": [2.5], "two": [math.nan], "three": [1.5]})
    standing = collect(made, tmp_path, jobs)
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
    assert "| 1 | three | 1.50 ± 0.10 |" in text and "bits/dim (elbo)" in text
    assert "nan" not in text and "None`" not in text and "no FD" in text


def test_a_cell_is_the_mean_of_the_seeds_that_are_done(plan, tmp_path):
    made, jobs = plan({"one": [2.0, 4.0, 9.0], "two": [1.0, 2.0, 3.0]})
    del jobs["one-seed2"]
    standing = collect(made, tmp_path, jobs)
    assert [(row.model.name, row.model.mean(BITS), row.model.seeds) for row in standing.rows] == [
        ("two", 2.0, 3),
        ("one", 3.0, 2),
    ]


def test_only_what_the_axes_change_may_differ(plan, tmp_path):
    bits, settings = {"one": [2.0], "two": [1.0]}, {"two": {"estimator": {"class_path": "Other"}}}
    made, jobs = plan(bits, **settings)
    standing = collect(made, tmp_path, jobs)
    assert str(standing.disagreements[0]) == "estimator is none in one and Other in two" and not standing.ranked
    assert "INCOMPARABLE" in markdown(standing, "bare")
    made, jobs = plan(bits, across=["model.init_args.bound"], **settings)
    standing = collect(made, tmp_path, jobs)
    assert len(standing.rows) == 2 and standing.ranked and not standing.disagreements


def test_the_plan_names_baseline_and_metric(plan, tmp_path):
    bits = {"one": [2.0], "two": [1.0], "three": [3.0]}
    made, jobs = plan(bits)
    assert {row.baseline.name for row in collect(made, tmp_path, jobs).rows} == {"two"}
    made, jobs = plan(bits, baseline="one", rank_by="bits_per_dim")
    standing = collect(made, tmp_path, jobs)
    assert {row.baseline.name for row in standing.rows} == {"one"} and standing.metric is BITS
    del jobs["one"]
    standing = collect(made, tmp_path, jobs)
    assert {row.baseline.name for row in standing.rows} == {"two"}
    assert any("baseline one" in note for note in standing.notes)
    made, jobs = plan(bits, rank_by="kid")
    with pytest.raises(UserError, match="--rank_by kid"):
        collect(made, tmp_path, jobs)


def test_missing_runs_other_code_and_unfit_baselines_are_said(plan, tmp_path):
    made, jobs = plan({"one": [2.0, 3.0], "two": [1.0, 2.0]}, **{"two": {"commit": "x"}})
    del jobs["one-seed1"]
    (tmp_path / "baselines").mkdir()
    for name, reference in (("floor", "test"), ("ceiling", "val")):
        content = {"metrics": {"bits_per_dim": 1.0}, "settings": {**SETTINGS, "reference": reference}}
        (tmp_path / "baselines" / f"{name}.json").write_text(json.dumps(content))
    standing = collect(made, tmp_path, jobs)
    assert [record.name for record in standing.fixed] == ["floor"]
    text = markdown(standing, "bare")
    assert "failed or are not done: one-seed1." in text and "commit is" in text and "Left out: ceiling" in text


WAYS = {"evaluation_axes": {"solver": {"ddim": {"sampler.solver": "DDIM"}, "heun": {"sampler.solver": "Heun"}}}}


def test_every_evaluation_is_a_row_of_its_seeds(plan, tmp_path):
    ways = {"benchmark-ddim": {"sampler": "DDIM", "nfe": 5}, "benchmark-heun": {"sampler": "Heun", "nfe": 10}}
    made, jobs = plan({"one": [2.0, 4.0], "two": [1.0, 2.0]}, given=WAYS, **ways)
    jobs["two-seed1"].measurements()[1].file.unlink()
    standing = collect(made, tmp_path, jobs)
    assert standing.ranked and not standing.disagreements  # the sampler differs on purpose
    found = {row.model.name: (row.model.labels, row.model.seeds) for row in standing.rows}
    assert found == {
        "one-ddim": ({"axis": "one", "solver": "ddim"}, 2),
        "one-heun": ({"axis": "one", "solver": "heun"}, 2),
        "two-ddim": ({"axis": "two", "solver": "ddim"}, 2),
        "two-heun": ({"axis": "two", "solver": "heun"}, 1),
    }
    assert "Missing, for they failed or are not done: two-seed1:heun." in standing.notes
    differ = {**ways, "benchmark-heun": {**ways["benchmark-heun"], "seed": 5}}
    made, jobs = plan({"one": [2.0]}, given=WAYS, **differ)
    assert "seed is 0" in str(collect(made, tmp_path, jobs).disagreements[0])  # nothing else does


def test_closed_forms_stand_in_every_way_in_which_they_could_be_measured(plan, tmp_path):
    ways = {"benchmark-ddim": {"nfe": 5}, "benchmark-heun": {"nfe": 10}}
    given = {**WAYS, "baselines": {"gaussian": {}, "memorised": {}, "lost": {}}}
    made, jobs = plan({"one": [2.0]}, given=given, **ways)
    (tmp_path / "baselines").mkdir()
    for name, nfe in (
        ("floor", None),
        ("gaussian-ddim", 5),
        ("gaussian-heun", 10),
        ("memorised", 50),
        ("ceiling", None),
    ):
        content = {"metrics": {"bits_per_dim": 1.0}, "settings": {**SETTINGS, "nfe": nfe}}
        (tmp_path / "baselines" / f"{name}.json").write_text(json.dumps(content))
    standing = collect(made, tmp_path, jobs)
    assert [(record.name, record.labels) for record in standing.fixed] == [
        ("floor", {}),
        ("gaussian", {"solver": "ddim"}),
        ("gaussian", {"solver": "heun"}),
        ("memorised", {}),
        ("ceiling", {}),
    ]
    assert any("memorised could not be measured in ddim, heun; it stands as its own" in note for note in standing.notes)
    assert any("lost could not be measured in ddim, heun: " in note for note in standing.notes)
    write_tables(standing, "bare", tmp_path)
    with open(tmp_path / "table.csv") as file:
        table = list(csv.DictReader(file))
    assert [(row["axis"], row["solver"]) for row in table if row["axis"] == "gaussian"] == [
        ("gaussian", "ddim"),
        ("gaussian", "heun"),
    ]
    assert "| gaussian | heun | 10 | 1.000" in markdown(standing, "bare")
