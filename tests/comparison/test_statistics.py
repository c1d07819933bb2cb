"""Intervals hold what they claim, and ties follow from them."""

import math

import numpy as np
import pytest
import scipy.stats

from lightning_gen.comparison.statistics import Estimate, mean_and_sd, normal_interval, ranks, t_interval, t_quantile


def test_the_quantile_is_students():
    for dof in (1, 2, 3, 4, 5, 10, 29, 100, 999):
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


def test_ranks_are_shared_with_the_leader_of_a_group():
    tied = {("b", "a"), ("c", "a"), ("d", "c"), ("e", "d")}
    assert ranks("abcde", lambda x, y: (x, y) in tied) == [1, 1, 1, 4, 4]  # d ties with c, but not with the leader a
    assert ranks("abc", lambda *_: False) == [1, 2, 3] and ranks("abc", lambda *_: True) == [1, 1, 1]
    assert ranks("", lambda *_: True) == []
