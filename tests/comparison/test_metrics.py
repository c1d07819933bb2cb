"""Which way each metric is better, and by which names it is called."""

import pytest

from lightning_gen.comparison.metrics import METRICS, named_metric
from lightning_gen.errors import UserError


def test_distances_and_code_lengths_are_better_low_and_all_else_high():
    lower = {key for key, metric in METRICS.items() if metric.lower_is_better}
    assert lower == {"fd", "fd_inf", "fid", "kid", "bits_per_dim"}
    assert METRICS.keys() - lower == {
        *("log_prob_nats", "precision", "recall", "density", "coverage", "inception_score"),
    }


def test_a_metric_answers_to_each_of_its_keys():
    assert {key: named_metric(key) for key in METRICS} == METRICS
    assert named_metric("elbo_nats") is METRICS["log_prob_nats"]
    with pytest.raises(UserError, match="--rank_by beauty: there is no such metric; there are fd, "):
        named_metric("beauty")
