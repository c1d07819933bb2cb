"""Numbers that were measured differently are found out, down to the leaf."""

from pathlib import Path

import pytest

from lightning_gen.comparison.records import Record
from lightning_gen.comparison.settings import code_notes, columns, disagreements
from lightning_gen.errors import UserError

SAMPLER = {"class_path": "a.Sampler", "init_args": {"steps": 50, "solver": {"class_path": "a.DDIM", "init_args": {}}}}
HOW = {
    "num_samples": 600,
    "data": "D",
    "seed": 0,
    "draws": 16,
    "likelihood_kind": "elbo",
    "sampler": SAMPLER,
    "nfe": 50,
}


def record(name, metrics=("fd", "bits_per_dim"), **changes):
    return Record(name, Path(f"{name}.json"), dict.fromkeys(metrics, 1.0), {**HOW, **changes}, name)


def said(*records, across=()):
    return [(found.of, str(found)) for found in disagreements(records, across)]


@pytest.mark.parametrize("key", ["num_samples", "extractor_digest", "nfe"])
def test_samples_depend_on_it_and_the_likelihood_does_not(key):
    assert said(record("a"), record("b", **{key: 7})) == [
        ("samples", f"{key} is {HOW.get(key) or 'none'} in a and 7 in b")
    ]


def test_a_part_of_a_split_does_not_compare_with_the_whole():
    assert said(record("a"), record("b", num_examples=7)) == [("likelihood", "num_examples is none in a and 7 in b")]


@pytest.mark.parametrize("key", ["draws", "estimator"])
def test_the_likelihood_depends_on_it_within_a_kind(key):
    assert [of for of, _ in said(record("a"), record("b", **{key: 7}))] == ["likelihood"]
    assert not said(record("a"), record("b", **{key: 7}, likelihood_kind="exact"))
    assert said(record("x", likelihood_kind="exact"), record("a"), record("b", **{key: 7}))


def test_likelihoods_of_diffusions_with_other_ends_do_not_compare():
    """Of one kind, and where both are recorded: a schedule that learns its ends chooses them by the bound."""
    a, b = record("a", logsnr_ends=[-10.0, 10.0]), record("b", logsnr_ends=[-10.0, 13.3])
    assert said(a, b) == [("likelihood", "logsnr_ends is [-10.0, 10.0] in a and [-10.0, 13.3] in b")]
    assert not said(a, b, across=["ends"]) and not said(a, record("learned"))
    assert said(record("learned"), a, b) and not said(a, record("c", logsnr_ends=[0.0, 1.0], likelihood_kind="ode"))


@pytest.mark.parametrize(
    "key", ["data", "levels", "reference", "reference_count", "reference_fingerprint", "seed", "device", "weights"]
)
def test_both_depend_on_it(key):
    assert [of for of, _ in said(record("a"), record("b", **{key: "other"}))] == ["samples", "likelihood"]
    assert not said(record("a", ["fd"]), record("b", ["bits_per_dim"], **{key: "other"}))  # nothing is set side by side


@pytest.mark.parametrize("key", ["step", "batch_size", "commit", "version", "torch", "training_seed", "recipe_digest"])
def test_they_may_differ(key):
    assert not said(record("a"), record("b", **{key: "other"}))


def test_the_leaf_is_named():
    steps = {**SAMPLER, "init_args": {**SAMPLER["init_args"], "steps": 25}}
    assert said(record("a"), record("b", sampler=steps)) == [
        ("samples", "sampler.init_args.steps is 50 in a and 25 in b")
    ]
    solver = {
        **SAMPLER,
        "init_args": {"steps": 25, "solver": {"class_path": "lightning_gen.x.Heun", "init_args": {"s": 1}}},
    }
    text = said(record("a"), record("b", sampler=solver))[0][1]
    assert text == "sampler.init_args.solver.class_path is a.DDIM in a and Heun in b"
    assert said(record("a"), record("b", sampler=None))[0][1] == "sampler is a.Sampler in a and none in b"


def test_what_is_compared_on_purpose_may_differ_and_becomes_columns():
    steps = {**SAMPLER, "init_args": {**SAMPLER["init_args"], "steps": 25}}
    pair = [record("a"), record("b", sampler=steps, nfe=25)]
    assert not disagreements(pair, ["sampler"])
    assert columns(pair, ["sampler", "weights"]) == {"sampler": ["steps=50", "steps=25"], "nfe": ["50", "25"]}
    classes = [record(name, sampler={"class_path": f"a.{name}", "init_args": {}}) for name in ("S", "T")]
    assert columns(classes, ["sampler"]) == {"sampler": ["a.S", "a.T"]}
    assert disagreements(pair, ["weights"])[0].across == "sampler"
    assert disagreements([record("a"), record("b", num_samples=5)])[0].across is None


def test_other_code_is_a_note():
    notes = code_notes([record("a", commit="x"), record("b", commit="y"), record("c", commit="y")])
    assert notes == ["Measured by different code: commit is x in a; y in b, c."]


def test_two_evaluations_of_one_run_are_told_apart():
    pair = [
        Record("a", Path(f"/a/evaluation/{name}.json"), {"fd": 1.0}, {**HOW, "num_samples": num, "commit": name}, "a")
        for name, num in (("default", 600), ("quick", 50))
    ]
    assert said(*pair) == [("samples", "num_samples is 600 in a:default and 50 in a:quick")]
    assert code_notes(pair) == ["Measured by different code: commit is default in a:default; quick in a:quick."]


def test_unknown_purposes_are_refused():
    from lightning_gen.comparison.settings import chosen

    assert chosen(["sampler", "", " weights"]) == ("sampler", "weights")
    with pytest.raises(UserError, match="num_samples"):
        chosen(["num_samples"])
