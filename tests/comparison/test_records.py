"""Runs, files and benchmarks lead to their evaluations; what leads nowhere is said."""

import json
import math
import shutil

import pytest

from lightning_gen.comparison.baselines import distinct
from lightning_gen.comparison.records import find_records, read_record, told_apart
from lightning_gen.errors import UserError


def test_a_run_is_read(evaluated):
    run = evaluated("a", fd=2.0, per_example=[1.0, 3.0], seed=4)
    (run / "metrics.csv").write_text("step,throughput/images_per_s\n1,100\n2,120\n3,500\n")
    found = find_records([run])
    [record], fixed = found.records, found.baselines
    assert (record.name, record.seed, record.recipe, record.kind) == ("a", 4, "a", "elbo")
    assert record.images_per_s == 120 and record.metrics["fd"] == 2.0
    assert list(record.log_prob) == [0, 1] and record.log_prob[1] == pytest.approx(3 * record.log_prob[0])
    assert [(r.name, r.metrics["fd"], r.settings["source"]) for r in fixed] == [
        ("floor", 1.0, "real data"),
        ("ceiling", 100.0, "noise"),
    ]


def test_each_evaluation_counts_once_in_any_order(evaluated):
    a, b = evaluated("a", fd=1.0), evaluated("b", fd=2.0)
    paths = [b, a, a / "evaluation" / "default.json", a / ".." / "b"]
    names = [[record.name for record in find_records(given).records] for given in (paths, paths[::-1])]
    assert names == [["a", "b"]] * 2


def test_a_benchmark_means_all_its_runs(evaluated, tmp_path):
    runs = [evaluated(name, fd=2.0, name="benchmark") for name in ("a", "b")]
    for run in runs:
        shutil.copytree(run, tmp_path / "bench" / "cells" / run.name)
    (tmp_path / "bench" / "baselines").mkdir()
    shutil.copy(runs[0] / "evaluation" / "benchmark.json", tmp_path / "bench" / "baselines" / "memorised.json")
    (tmp_path / "bench" / "cells" / "cut").mkdir()
    found = find_records([tmp_path / "bench"])
    assert [record.name for record in found.records] == ["a", "b"]
    assert len(found.notes) == 1 and "cut" in found.notes[0]
    # one of its runs by itself has the benchmark's baselines too
    [alone] = [find_records([tmp_path / "bench" / "cells" / "a"], "benchmark")]
    assert [r.name for r in alone.records] == ["a"] and "memorised" in [r.name for r in alone.baselines]
    assert [record.name for record in distinct(found.baselines)] == ["floor", "memorised", "ceiling"]


def test_a_benchmark_means_all_evaluations_of_its_own(evaluated, tmp_path):
    for name in ("a", "b"):
        for evaluation in ("benchmark-ddim-5", "benchmark-heun-5", "benchmarked", "quick"):
            run = evaluated(name, fd=2.0, name=evaluation)
        shutil.copytree(run, tmp_path / "bench" / "cells" / run.name)
    (tmp_path / "bench" / "cells" / "b" / "evaluation" / "benchmark-ddim-5.json").unlink()
    (tmp_path / "bench" / "cells" / "cut").mkdir()
    found = find_records([tmp_path / "bench"])
    assert [(record.name, record.file.stem) for record in found.records] == [
        ("a", "benchmark-ddim-5"),
        ("a", "benchmark-heun-5"),
        ("b", "benchmark-heun-5"),
    ]
    assert found.notes == [
        "Left out, for they have no evaluation 'benchmark': cut.",
        "There is no evaluation 'benchmark-ddim-5' of b.",
    ]
    assert [record.name for record in find_records([tmp_path / "bench"], "quick").records] == ["a", "b"]


def test_an_older_file_is_read_and_nothing_is_its_like(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"metrics": {"fd": None}, "settings": {"data": "D"}}))
    a, b = (read_record(tmp_path / f"{name}.json") for name in ("a", "b"))
    assert a.recipe != b.recipe and a.seed is None and math.isnan(a.metrics["fd"]) and not a.log_prob


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"metrics": [], "settings": {}}',
        '{"metrics": {"fd": "x"}, "settings": {}}',
        '{"metrics": {}, "settings": []}',
        '{"metrics": {}, "settings": null}',
        '{"metrics": {}, "settings": {}, "baselines": [1]}',
        '{"metrics": {}, "settings": {}, "baselines": {"floor": 1}}',
        '{"metrics": {}, "settings": {}, "baselines": {"floor": {"metrics": {"fd": "x"}, "settings": {}}}}',
    ],
)
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match="x.json is not an evaluation"):
        find_records([tmp_path / "x.json"])


def test_what_is_missing_is_said_with_what_makes_it(evaluated, tmp_path):
    run = evaluated("a", fd=1.0, name="quick")
    with pytest.raises(UserError, match=r"`lightning-gen evaluate \S+/a` makes it; it has quick \(--name quick\)"):
        find_records([run])
    assert find_records([run], "quick").records
    with pytest.raises(UserError, match="evaluate .* --name other"):
        find_records([run], "other")
    with pytest.raises(UserError, match="nowhere"):
        find_records([tmp_path / "nowhere"])
    (tmp_path / "empty" / "cells").mkdir(parents=True)
    with pytest.raises(UserError, match="without a run"):
        find_records([tmp_path / "empty"])


def test_the_name_is_of_the_evaluation_in_a_benchmark_too(evaluated, tmp_path):
    for name, fd in (("benchmark", 1.0), ("small", 2.0)):
        shutil.copytree(evaluated("a", fd=fd, name=name), tmp_path / "bench" / "cells" / "a", dirs_exist_ok=True)
    (tmp_path / "bench" / "cells" / "b").mkdir()
    for name, fd in ((None, 1.0), ("benchmark", 1.0), ("small", 2.0)):
        found = find_records([tmp_path / "bench"], name)
        assert [record.metrics["fd"] for record in found.records] == [fd] and "b" in found.notes[0]


def test_what_is_no_run_is_not_told_to_be_evaluated(evaluated, tmp_path):
    run = evaluated("a", fd=1.0)
    (tmp_path / "bench" / "cells").mkdir(parents=True)
    for path, meant in ((run / "evaluation", run), (tmp_path / "bench" / "cells", tmp_path / "bench")):
        with pytest.raises(UserError, match=f"neither a run nor a benchmark, did you mean {meant}\\?$"):
            find_records([path])
    with pytest.raises(UserError, match="neither a run nor a benchmark$"):
        find_records([tmp_path])


def test_data_are_rows_beside_models_and_no_models(evaluated, tmp_path):
    floor = tmp_path / "floor.json"
    floor.write_text(json.dumps({"metrics": {"fd": 0.5}, "settings": {"source": "real data", "num_samples": 9}}))
    found = find_records([floor, evaluated("a", fd=1.0)])
    assert [r.name for r in found.records] == ["a"] and found.baselines[0].metrics == {"fd": 0.5}
    with pytest.raises(UserError, match="floor: rows of data without a model"):
        find_records([floor])


def test_an_unknown_number_of_the_floor_is_nan(evaluated):
    run = evaluated("a", fd=1.0)
    file = run / "evaluation" / "default.json"
    content = json.loads(file.read_text())
    content["baselines"]["floor"]["metrics"]["fd"] = None
    file.write_text(json.dumps(content))
    assert math.isnan(find_records([run]).baselines[0].metrics["fd"])


def test_names_tell_records_apart_in_the_shortest_way(evaluated):
    def names(*files):
        return told_apart([read_record(run / "evaluation" / f"{name}.json") for run, name in files])

    a, b = evaluated("a", fd=1.0), evaluated("b", fd=1.0)
    evaluated("a", fd=1.0, name="quick")
    p, q = evaluated("p/same", fd=1.0), evaluated("q/same", fd=1.0)
    evaluated("p/same", fd=1.0, name="quick")
    assert names((a, "default"), (b, "default")) == ["a", "b"]
    assert names((a, "default"), (a, "quick")) == ["a:default", "a:quick"]
    assert names((p, "default"), (q, "default")) == ["p/same", "q/same"]
    assert names((p, "default"), (p, "quick"), (q, "default")) == ["p/same:default", "p/same:quick", "q/same:default"]


def test_a_damaged_metrics_csv_is_named(evaluated):
    run = evaluated("a", fd=1.0, speeds=[100.0])
    (run / "metrics.csv").write_text("step,throughput/images_per_s\n1,x\n")
    with pytest.raises(UserError, match="metrics.csv is damaged"):
        find_records([run])
    (run / "metrics.csv").write_text("throughput/images_per_s\n1\n")
    with pytest.raises(UserError, match="metrics.csv is damaged"):
        find_records([run])


def test_a_damaged_csv_is_named(evaluated):
    run = evaluated("a", per_example=[1.0, 2.0])
    (run / "evaluation" / "default.csv").write_text("index,log_prob_nats\n0,1.0\n1")
    [record] = find_records([run]).records
    with pytest.raises(UserError, match="default.csv is damaged"):
        _ = record.log_prob
