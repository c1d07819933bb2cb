"""A table of data without a feature extractor: FD stays empty, bits/dim rank."""

import csv
import json
import math
from types import SimpleNamespace

import pytest

from lightning_gen.benchmark.table import collect, markdown, write

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
BITS = {"one": 2.5, "two": math.nan, "three": 1.5}


@pytest.fixture
def plan(tmp_path):
    jobs = {}
    for name, bits in BITS.items():
        file = tmp_path / name / "evaluation" / "benchmark.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"metrics": {"bits_per_dim": bits, "bits_per_dim_se": 0.1}, "settings": SETTINGS}))
        (tmp_path / name / "metrics.csv").write_text("step\n1\n")
        jobs[name] = SimpleNamespace(run=tmp_path / name, result=file)
    cells = [SimpleNamespace(name=name, values={"axis": name}) for name in BITS]
    return SimpleNamespace(name="bare", axes={"axis": {}}, baselines={}, cells=lambda: cells, jobs=jobs)


def test_bits_per_dim_rank_and_fd_is_empty(plan, tmp_path):
    rows = collect(plan, tmp_path, plan.jobs)
    assert [row.name for row in rows] == ["three", "one", "two"]
    write(rows, plan, tmp_path)
    with open(tmp_path / "table.csv") as file:
        table = list(csv.DictReader(file))
    assert [row["axis"] for row in table] == ["three", "one", "two"]
    assert {row["fd"] for row in table} == {row["num_samples"] for row in table} == {""}
    text = markdown(rows, plan)
    assert "| 1 | three |  | 1.500 ± 0.100 (elbo) |" in text
    assert "nan" not in text and "None`" not in text and "no FD" in text
