"""Floor, closed forms and ceiling stand beside models only as far as they were measured alike."""

import json
from dataclasses import replace

import pytest

from lightning_gen.comparison.baselines import distinct, fitting
from lightning_gen.comparison.records import find_records, read_record


@pytest.fixture
def around(evaluated):
    """around(baseline's name, **settings in which it differs): a model's records, and a baseline as a file of its own."""

    def function(name, metrics=("fd", "bits_per_dim"), **changes):
        model = find_records([evaluated("model", fd=5.0, bits=3.0)])
        other = evaluated("of", metrics=dict.fromkeys(metrics, 1.0), name=name)
        baseline = read_record(other / "evaluation" / f"{name}.json", name=name)
        return model.records, replace(baseline, settings={**baseline.settings, **changes})

    return function


@pytest.mark.parametrize(
    "changed",
    [
        {"extractor_digest": "other"},
        {"reference": "val"},
        {"reference_fingerprint": "other"},
        {"reference_count": 9},
        {"levels": 256},
        {"data": "MNIST"},
        {"device": "cuda"},
        {"seed": 3},
        {"draws": 1},
        {"num_samples": 100},
        {"num_samples": 6000},
    ],
)
def test_what_was_measured_otherwise_is_left_out_and_named(around, changed):
    records, baseline = around("memorised", **changed)
    kept, [note] = fitting([baseline], records)
    assert not kept and "memorised" in note and next(iter(changed)) in note


def test_a_closed_form_has_its_own_sampler_weights_and_estimator(around):
    own = {"sampler": {"class_path": "X"}, "nfe": 3, "weights": "raw", "estimator": {"class_path": "Y"}}
    records, baseline = around("gaussian", **own)
    assert fitting([baseline], records) == ([baseline], [])


@pytest.mark.parametrize(("num", "stays"), [(600, True), (50, True), (601, False)])
def test_a_floor_may_be_of_fewer_examples_and_that_is_said(around, num, stays):
    records, floor = around("floor", ["fd"], source="real data", num_samples=num, sampler=None, nfe=None, weights=None)
    kept, notes = fitting([floor], records)
    assert kept == [floor] * stays and len(notes) == (num != 600)
    if num == 50:
        assert "50 examples" in notes[0] and "600" in notes[0]


def test_what_is_not_measured_cannot_clash(around):
    records, baseline = around("floor", ["fd"], source="real data", draws=0)
    assert fitting([baseline], records)[0]
    records, baseline = around("gaussian", ["bits_per_dim"], num_samples=None, extractor_digest=None)
    assert fitting([baseline], records)[0]


def test_in_a_table_of_several_protocols_one_must_fit(around, evaluated):
    records, baseline = around("memorised")
    other = find_records([evaluated("small", fd=1.0, num_samples=100)]).records
    assert fitting([baseline], [*other, *records])[0] and not fitting([baseline], other)[0]


def test_each_is_kept_once_floor_first_and_ceiling_last(evaluated):
    a, b, c = evaluated("a", fd=1.0), evaluated("b", fd=2.0), evaluated("c", fd=2.0, extractor="other")
    assert [r.name for r in distinct(find_records([a, b]).baselines[::-1])] == ["floor", "ceiling"]
    assert [r.settings["extractor"] for r in distinct(find_records([a, c]).baselines)] == ["digits", "other"] * 2
    content = json.loads((b / "evaluation" / "default.json").read_text())
    content["baselines"]["floor"]["settings"]["num_samples"] = 50
    (b / "evaluation" / "default.json").write_text(json.dumps(content))
    assert [r.name for r in distinct(find_records([a, b]).baselines)] == ["floor", "floor", "ceiling"]


def test_one_closed_form_stands_as_often_as_it_was_measured(around):
    records, baseline = around("gaussian")
    ways = [replace(baseline, labels={"nfe": nfe}) for nfe in ("5", "10", "5")]
    assert [kept.labels["nfe"] for kept in fitting(ways, records)[0]] == ["5", "10"]
    odd = replace(ways[0], settings={**baseline.settings, "seed": 3})
    assert fitting([odd], records)[1][0].startswith("Left out: gaussian 5, which")
