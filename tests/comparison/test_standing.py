"""Ranges of ranks, and baselines."""

import itertools
import math

import pytest

from lightning_gen.comparison.metrics import BITS, FD, NATS
from lightning_gen.comparison.models import grouped
from lightning_gen.comparison.records import find_records
from lightning_gen.comparison.standing import stand
from lightning_gen.errors import UserError


def standing(paths, **how):
    return stand(grouped(find_records(paths).records)[0], **how)


def places(found):
    return [(row.model.name, str(row.rank).replace("\N{EN DASH}", "-")) for row in found.rows]


def test_ranks_are_by_the_paired_difference_not_by_overlapping_intervals(seeds):
    """Seeds that move all models alike hide nothing; seeds that move one alone do, however far the means are apart."""
    shift = [-3.0, 0.0, 3.0]
    steady = [*seeds("a", [10 + s for s in shift]), *seeds("b", [10.5 + s for s in shift[:2]] + [13.6])]
    assert places(standing(steady)) == [("a", "1"), ("b", "2")]
    noisy = [*seeds("a", [10.0, 10.1, 9.9]), *seeds("b", [10.0, 12.0, 13.0])]
    assert places(standing(noisy)) == [("a", "1-2"), ("b", "1-2")]


def test_a_range_holds_those_that_are_not_told_apart(seeds):
    paths = [
        *seeds("a", [1.0, 1.1, 0.9]),
        *seeds("b", [1.1, 1.0, 1.2]),
        *seeds("c", [5.0, 5.1, 4.9]),
        *seeds("d", [5.1, 5.0, 5.2]),
    ]
    assert places(standing(paths)) == [("a", "1-2"), ("b", "1-2"), ("c", "3-4"), ("d", "3-4")]


def test_the_order_of_the_runs_is_of_no_consequence(seeds):
    paths = [*seeds("a", [1.0, 1.1]), *seeds("b", [1.0, 1.1]), *seeds("c", [math.nan, 2.0])]
    assert (
        len(
            {
                str(places(standing(list(order))))
                for order in itertools.islice(itertools.permutations(paths), 0, None, 37)
            }
        )
        == 1
    )


def test_what_was_not_measured_has_no_rank(seeds, evaluated):
    found = standing([*seeds("a", [2.0, 3.0]), *seeds("b", [math.nan, 1.0]), evaluated("c", fd=9.0)])
    assert places(found) == [("a", "1"), ("c", "2"), ("b", "None")]


@pytest.mark.parametrize(
    ("given", "metric"),
    [
        ([{"fd": 1.0, "bits": 2.0}, {"fd": 2.0, "bits": 1.0}], FD),
        ([{"fd": 1.0, "bits": 2.0}, {"bits": 1.0}], BITS),
        ([{"fd": 1.0}, {"bits": 1.0}], FD),
    ],
)
def test_fd_ranks_where_all_have_it(evaluated, given, metric):
    assert standing([evaluated(f"r{i}", **numbers) for i, numbers in enumerate(given)]).metric is metric


def test_higher_is_better_where_it_is(evaluated):
    paths = [evaluated("a", bits=3.0), evaluated("b", bits=2.0)]
    for key in ("log_prob_nats", "elbo_nats"):  # what a file calls it
        assert places(standing(paths, rank_by=key)) == [("b", "1"), ("a", "2")]
        assert standing(paths, rank_by=key).metric is NATS
    for name in ("fd", "beauty"):
        with pytest.raises(UserError, match=f"--rank_by {name}.*bits_per_dim"):
            standing(paths, rank_by=name)


def test_a_likelihood_ranks_within_its_kind(evaluated):
    kinds = {"a": ("exact", 3.0), "b": ("elbo", 2.0), "c": ("exact", 1.0), "d": ("elbo", 4.0)}
    found = standing([evaluated(name, bits=bits, likelihood_kind=kind) for name, (kind, bits) in kinds.items()])
    assert places(found) == [("c", "1"), ("a", "2"), ("b", "1"), ("d", "2")]
    assert [row.block for row in found.rows] == [0, 0, 1, 1]
    assert [row.baseline.name for row in found.rows] == ["c", "c", "b", "b"]


def test_differences_are_to_the_baseline(seeds, evaluated):
    paths = [*seeds("a", [1.0, 2.0]), *seeds("b", [3.0, 5.0])]
    by_default, named = standing(paths), standing(paths, baseline="b")
    assert by_default.rows[1].differences["fd"].mean == 2.5 and not by_default.rows[0].differences
    assert named.rows[0].differences["fd"].mean == -2.5 and named.rows[1].is_baseline
    for other in ("b-1", str(paths[2])):
        assert standing(paths, baseline=other).rows[1].is_baseline
    with pytest.raises(UserError, match="--baseline nobody.*a, b"):
        standing(paths, baseline="nobody")


def test_kinds_are_not_set_against_each_other(evaluated):
    paths = [evaluated("a", fd=1.0, bits=1.0), evaluated("b", fd=2.0, bits=2.0, likelihood_kind="exact")]
    assert list(standing(paths).rows[1].differences) == ["fd"]


def test_a_noisy_model_between_sure_ones_is_put_behind_none_that_is_not_surely_better(seeds):
    """Of a group's leader alone it would be said that n is behind it: no interval says so of any."""
    paths = [*seeds("a", [1.0, 1.01, 1.02]), *seeds("b", [2.0, 2.01, 2.02]), *seeds("n", [0.5, 2.5, 4.5])]
    assert places(standing(paths)) == [("a", "1-2"), ("b", "2-3"), ("n", "1-3")]
    assert dict(standing(paths).pairs) == {"seeds": 3}


def test_equal_point_estimates_share_their_places(evaluated):
    found = standing([evaluated(name, fd=fd) for name, fd in (("a", 2.0), ("b", 1.0), ("c", 2.0), ("d", 3.0))])
    assert places(found) == [("b", "1"), ("a", "2-3"), ("c", "2-3"), ("d", "4")] and dict(found.pairs) == {"": 6}


def test_one_model_alone_has_no_rank(evaluated, seeds):
    assert places(standing([evaluated("a", fd=1.0)])) == [("a", "None")]
    assert not standing(seeds("b", [1.0, 2.0])).ranked
