"""Which runs are seeds of one model, and how two models are set against each other."""

import math
import random

import numpy as np
import pytest
import scipy.stats

from lightning_gen.comparison.metrics import BITS, FD, NATS
from lightning_gen.comparison.models import difference, grouped, steps
from lightning_gen.comparison.records import find_records
from lightning_gen.errors import UserError


def models(*paths):
    found, notes = grouped(find_records(paths).records)
    return {model.name: model for model in found}, notes


def test_seeds_of_one_recipe_are_one_model(seeds, evaluated):
    found, notes = models(*seeds("a", [1.0, 2.0, 6.0]), *seeds("b", [3.0, 3.0]), evaluated("c", fd=5.0))
    assert {name: [r.seed for r in model.records] for name, model in found.items()} == {
        "a": [0, 1, 2],
        "b": [0, 1],
        "c": [0],
    }
    assert found["a"].summary(FD) == pytest.approx((3.0, np.std([1, 2, 6], ddof=1)))
    assert math.isnan(found["c"].summary(FD)[1]) and not notes


@pytest.mark.parametrize(
    "changed", [{"step": 900}, {"weights": "raw"}, {"num_samples": 5}, {"likelihood_kind": "iwae-8"}]
)
def test_what_was_measured_otherwise_is_no_seed_of_it(evaluated, changed):
    one = evaluated("x-1", fd=1.0, seed=0, recipe="x")
    other = evaluated("x-2", fd=2.0, seed=1, recipe="x", **changed)
    assert len(models(one, other)[0]) == 2


def test_one_seed_twice_is_not_two_seeds(evaluated):
    paths = [evaluated(f"x-{i}", fd=i, seed=seed, recipe="x") for i, seed in enumerate([0, 0, 1])]
    found, notes = models(*paths)
    assert list(found) == ["x-0", "x-1", "x-2"] and all(model.seeds == 1 for model in found.values())
    assert len(notes) == 1 and "x-0, x-1, x-2" in notes[0] and "seed 0 twice" in notes[0]


def test_names_tell_models_apart(evaluated):
    def names(*runs, **kwargs):
        return list(models(*(evaluated(r, fd=1.0, seed=s, recipe=recipe, **kwargs) for r, s, recipe in runs))[0])

    assert names(("digits-10", 0, "x"), ("digits-11", 1, "x")) == ["digits"]  # not "digits-1"
    assert names(("v", 0, "x"), ("v-seed1", 1, "x"), ("v-seed2", 2, "x")) == ["v"]
    assert names(("one", 0, "x"), ("two", 1, "x")) == ["one+two"]
    assert names(("d-1", 0, "x"), ("d-2", 1, "x"), ("d-3", 0, "y"), ("d-4", 1, "y")) == ["d-1+d-2", "d-3+d-4"]
    assert names(("p/same", 0, "x"), ("q/same", 0, "y")) == ["p/same", "q/same"]


def test_the_difference_is_paired_by_seed(seeds):
    """Whatever the order, and whichever seeds only one of them has."""
    a, b = [5.0, 9.0, 7.0, 3.0], [5.5, 9.4, 7.7]
    found, _ = models(*seeds("a", a)[::-1], *seeds("b", b))
    estimate = difference(found["a"], found["b"], FD)
    expected = scipy.stats.ttest_rel(a[:3], b).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))
    assert estimate.over == "seeds" and estimate.count == 3
    back = difference(found["b"], found["a"], FD)
    assert (back.mean, back.half) == pytest.approx((-estimate.mean, estimate.half))


def test_without_common_seeds_the_interval_is_unpaired(evaluated):
    a, b = {0: 5.0, 1: 9.0, 2: 7.0}, {2: 5.5, 3: 6.4, 4: 5.7}
    runs = [evaluated(f"{m}-{s}", fd=fd, seed=s, recipe=m) for m, of in (("a", a), ("b", b)) for s, fd in of.items()]
    found, _ = models(*runs)
    estimate = difference(found["a"], found["b"], FD)
    expected = scipy.stats.ttest_ind([*a.values()], [*b.values()], equal_var=False).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))
    assert estimate.over == "seeds, unpaired"


def test_one_recipe_at_several_steps_is_told_apart(evaluated):
    early = [evaluated(f"early-{s}", fd=2.0, seed=s, recipe="x", step=500) for s in (0, 1)]
    late = [evaluated(f"late-{s}", fd=1.0, seed=s, recipe="x", step=900) for s in (0, 1)]
    found, _ = models(*early, *late, evaluated("y", fd=1.0, step=700))
    assert steps(list(found.values())) == {"step": ["500", "900", "700"]}
    found, _ = models(*early, evaluated("y", fd=1.0, step=700))  # recipes may differ in that
    assert steps(list(found.values())) == {}


def test_one_seed_of_a_distance_has_no_interval(evaluated):
    found, _ = models(evaluated("a", fd=2.0), evaluated("b", fd=3.0))
    estimate = difference(found["a"], found["b"], FD)
    assert estimate.mean == -1.0 and math.isnan(estimate.half) and estimate.over == ""


def test_a_likelihood_of_one_seed_is_paired_over_the_examples(evaluated):
    rng = random.Random(0)
    a = [rng.gauss(3.0, 1.0) for _ in range(400)]
    b = [value + rng.gauss(0.1, 0.2) for value in a]
    found, _ = models(evaluated("a", per_example=a), evaluated("b", per_example=b))
    estimate = difference(found["a"], found["b"], BITS)
    d = np.subtract(a, b)
    assert estimate.mean == pytest.approx(d.mean())
    assert estimate.half == pytest.approx(1.959964 * d.std(ddof=1) / 20, rel=1e-6)  # far below the 0.1 of each alone
    assert estimate.over == "examples" and estimate.count == 400
    nats = difference(found["a"], found["b"], NATS)
    assert (nats.mean, nats.half) == pytest.approx((-64 * math.log(2) * d.mean(), 64 * math.log(2) * estimate.half))


def test_examples_say_nothing_of_several_seeds(evaluated):
    runs = [evaluated(f"a-{s}", per_example=[1.0 + s, 2.0, 4.0], seed=s, recipe="a") for s in range(3)]
    found, _ = models(*runs, evaluated("b", per_example=[1.0, 1.0, 1.5]))
    assert math.isnan(difference(found["a"], found["b"], BITS).half)


def test_files_that_do_not_belong_together_are_refused(evaluated):
    found, _ = models(evaluated("a", per_example=[1.0, 2.0, 3.0]), evaluated("b", per_example=[1.0, 2.0]))
    with pytest.raises(UserError, match="different examples"):
        difference(found["a"], found["b"], BITS)
    found, _ = models(evaluated("a", per_example=[1.0, 2.0], bits=9.0), evaluated("b", per_example=[1.0, 2.0]))
    with pytest.raises(UserError, match="default.csv is not of default.json"):
        difference(found["a"], found["b"], BITS)


def test_seeds_of_one_evaluation_are_named_by_it(evaluated):
    """Of two ways to sample, under two seeds, the rows are told apart by the way, not by every seed of it."""
    for seed in (0, 1):
        for way, nfe in (("a", 5), ("b", 10)):
            evaluated(f"net-{seed}", fd=1.0, seed=seed, recipe="net", name=f"benchmark-{way}", nfe=nfe)
    runs = [evaluated(f"net-{seed}", fd=1.0, seed=seed, name="x") for seed in (0, 1)]
    found, _ = models(*(run / "evaluation" / f"benchmark-{way}.json" for run in runs for way in "ab"))
    assert {name: model.seeds for name, model in found.items()} == {"net:benchmark-a": 2, "net:benchmark-b": 2}
