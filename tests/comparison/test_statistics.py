"""Intervals hold what they claim, and ranges of ranks follow from them."""

import math

import numpy as np
import pytest
import scipy.stats

from lightning_gen.comparison.statistics import (
    Estimate,
    mean_and_sd,
    normal_interval,
    rank_ranges,
    t_interval,
    t_quantile,
    welch_interval,
)


def test_the_quantile_is_students():
    for dof in (1, 1.3, 2, 2.9, 3, 4, 5, 7.7, 10, 29, 100, 999):
        for level in (0.5, 0.95, 0.999):
            assert t_quantile(level, dof) == pytest.approx(scipy.stats.t.ppf((1 + level) / 2, dof), rel=1e-10)


def test_the_interval_of_paired_seeds_is_the_paired_t_tests():
    a, b = [5.1, 6.3, 4.9, 5.5], [5.4, 6.2, 5.6, 6.0]
    found = t_interval([x - y for x, y in zip(a, b)])
    expected = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.mean, found.count, found.over) == (pytest.approx(np.mean(a) - np.mean(b)), 4, "seeds")


@pytest.mark.parametrize(
    ("interval", "count"), [(t_interval, 2), (t_interval, 3), (t_interval, 5), (normal_interval, 300)]
)
def test_the_interval_covers_the_truth_95_times_in_100(interval, count):
    draws = np.random.default_rng(0).normal(0.7, 2.0, (4000, count))
    covered = np.mean([abs(found.mean - 0.7) <= found.half for found in map(interval, draws.tolist())])
    assert covered == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors of a proportion of 4000


def test_what_is_not_known_is_nan():
    assert math.isnan(mean_and_sd([1.0])[1]) and math.isnan(mean_and_sd([])[0])
    for values in ([1.0], [1.0, math.nan], [1.0, math.inf]):
        found = t_interval(values)
        assert math.isnan(found.half) and not found.holds_zero()


def test_equal_numbers_are_a_tie():
    assert t_interval([0.0, 0.0, 0.0]).holds_zero() and not t_interval([0.1, 0.1, 0.1]).holds_zero()
    assert not Estimate(0.0).holds_zero()  # of point estimates nothing is known


def test_unpaired_sets_have_welchs_interval():
    for a, b in (([1.0, 2.0, 4.0], [3.0, 9.0]), ([5.1, 5.3, 5.2, 5.0], [1.0, 9.0, 4.0]), ([1.0, 1.1], [0.0, 3.0, 5.0])):
        found = welch_interval(a, b)
        expected = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
        assert (found.over, found.count) == ("seeds, unpaired", len(a) + len(b))
    assert welch_interval([2.0, 2.0], [1.0, 1.0]).half == 0.0
    unknown = welch_interval([2.0, math.inf], [1.0, 1.5])
    assert math.isnan(unknown.half) and unknown.over == ""


def test_the_sign_is_that_of_the_whole_interval():
    signs = {(2.0, 1.0): 1, (-2.0, 1.0): -1, (2.0, 3.0): 0, (-2.0, math.nan): -1, (0.0, math.nan): 0}
    signs |= {(math.nan, math.nan): 0, (math.inf, math.nan): 1}
    assert {key: Estimate(*key).sign() for key in signs} == signs


def ranges(things, better):
    """With `better` the pairs (x, y) of which x is surely better."""
    return [
        str(r).replace("\N{EN DASH}", "-")
        for r in rank_ranges(things, lambda x, y: ((x, y) in better) - ((y, x) in better))
    ]


def test_a_range_is_between_those_surely_better_and_those_surely_worse():
    better = {("a", "c"), ("a", "d"), ("b", "d")}
    assert ranges("abcd", better) == ["1-2", "1-3", "2-4", "3-4"]
    assert ranges("dcba", better) == ["3-4", "2-4", "1-3", "1-2"]  # whatever the order they are given in
    assert ranges("abc", {("a", "b"), ("a", "c"), ("b", "c")}) == ["1", "2", "3"]
    assert ranges("abc", {}) == ["1-3"] * 3 and ranges("a", {}) == ["1"] and ranges("", {}) == []


def test_each_pair_is_asked_once():
    asked = []
    rank_ranges("abcd", lambda x, y: asked.append({x, y}) or 0)
    assert len(asked) == 6 and all(asked.count(pair) == 1 for pair in asked)
