import math
import statistics

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.evaluation.inception_score import inception_score


def confident(labels, classes=10, logit=1e4):
    return logit * torch.nn.functional.one_hot(labels, classes).double()


def test_certain_and_balanced_scores_the_number_of_classes():
    score, error = inception_score(confident(torch.arange(50) % 5, 5), 1)
    assert score == pytest.approx(5, rel=1e-12)
    assert math.isnan(error)


@pytest.mark.parametrize(
    "logits", [torch.zeros(20, 7), torch.randn(1, 7).expand(20, 7), confident(torch.zeros(20).long())]
)
def test_samples_that_all_look_alike_score_one(logits):
    score, error = inception_score(logits)
    assert score == pytest.approx(1, rel=1e-12)
    assert error == pytest.approx(0, abs=1e-12)


def test_two_kinds_score_the_divergence_between_them():
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.1, 0.8])
    middle = (p + q) / 2
    divergence = (p * (p / middle).log() + q * (q / middle).log()).sum() / 2
    logits = torch.stack([p.log() + 3, q.log() - 5]).repeat(10, 1)  # a row's own constant means nothing
    assert inception_score(logits, 1)[0] == pytest.approx(math.exp(divergence), rel=1e-6)


ORDERS = {"by class": torch.arange(1000) // 100, "in cycles": torch.arange(1000) % 10}


@pytest.mark.parametrize("labels", ORDERS.values(), ids=ORDERS)
def test_the_order_of_the_classes_does_not_matter(labels):
    score, error = inception_score(confident(labels))
    assert 9 < score < 10
    assert error < 0.1


@pytest.mark.parametrize("index", range(23))
def test_every_sample_counts_where_splits_do_not_divide(index):
    logits = torch.randn(23, 4, generator=torch.Generator().manual_seed(0))
    before = inception_score(logits, 3)
    logits[index] *= -2
    assert inception_score(logits, 3)[0] != before[0]


def test_the_error_is_that_of_the_mean():
    def draw(seed):
        return inception_score(2 * torch.randn(1000, 5, generator=torch.Generator().manual_seed(seed)))

    scores, errors = zip(*[draw(seed) for seed in range(100)])
    assert 0.8 < statistics.mean(errors) / statistics.stdev(scores) < 1.25


@pytest.mark.parametrize("splits", [0, 21])
def test_more_splits_than_samples_are_refused(splits):
    with pytest.raises(UserError, match=f"{splits} splits .* got 20: set splits"):
        inception_score(torch.zeros(20, 3), splits)
