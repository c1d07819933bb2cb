import itertools
import math
import statistics

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.evaluation import kernel_distance as module
from lightning_gen.evaluation.kernel_distance import kernel_distance


def normal(num, dim=1, seed=0, mean=0.0):
    return mean + torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_moments(p, q):
    """In one dimension (xy + 1)^3 = x^3 y^3 + 3 x^2 y^2 + 3 x y + 1: differences of the first three moments."""
    apart = [sum(w * x**n for x, w in p.items()) - sum(w * x**n for x, w in q.items()) for n in (1, 2, 3)]
    return 3 * apart[0] ** 2 + 3 * apart[1] ** 2 + apart[2] ** 2


@pytest.mark.parametrize("sizes", [(2, 2), (3, 2)])
def test_over_all_draws_of_a_discrete_law_its_mean_is_the_discrepancy(sizes):
    p, q = {0.0: 0.25, 2.0: 0.75}, {-1.0: 0.5, 1.0: 0.5}
    expected = by_moments(p, q)
    mean = 0.0
    for x in itertools.product(p, repeat=sizes[0]):
        for y in itertools.product(q, repeat=sizes[1]):
            weight = math.prod(p[v] for v in x) * math.prod(q[v] for v in y)
            mean += weight * kernel_distance(torch.tensor(x)[:, None], torch.tensor(y)[:, None], 1)[0]
    assert mean == pytest.approx(expected, rel=1e-12)


def test_the_product_is_divided_by_the_number_of_features():
    x, y = torch.ones(2, 4), torch.zeros(2, 4)
    assert kernel_distance(x, y, 1)[0] == 8 + 1 - 2


def test_equal_laws_have_none_in_expectation_and_the_error_is_honest():
    drawn = [kernel_distance(normal(200, 8, 2 * seed), normal(200, 8, 2 * seed + 1), 4) for seed in range(150)]
    values, errors = zip(*drawn)
    assert abs(statistics.mean(values)) < 3 * statistics.stdev(values) / len(values) ** 0.5
    assert min(values) < 0
    assert 0.8 < statistics.mean(errors) / statistics.stdev(values) < 1.1


@pytest.mark.parametrize("num_blocks", [1, 3, None])
def test_blocks_leave_the_expectation_where_it_is(num_blocks):
    gap = 0.5
    moments = [gap, gap**2, gap**3 + 3 * gap]  # what a shift adds to those of a standard normal
    expected = 3 * moments[0] ** 2 + 3 * moments[1] ** 2 + moments[2] ** 2
    values = [
        kernel_distance(normal(600, 1, seed, gap), normal(500, 1, seed + 99), num_blocks)[0] for seed in range(60)
    ]
    assert abs(statistics.mean(values) - expected) < 3 * statistics.stdev(values) / len(values) ** 0.5


ORDERS = {
    "by class": lambda labels: labels.sort().indices,
    "in cycles": lambda labels: labels.sort(stable=True).indices.view(10, -1).T.reshape(-1),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_the_order_of_the_classes_does_not_matter(order):
    labels = torch.arange(1000) % 10
    x, y = normal(1000, 1, 1) + labels[:, None], normal(1000, 1, 2) + labels[:, None]
    value, error = kernel_distance(x[order(labels)], y[order(labels).flip(0)])
    assert abs(value) < 4 * error
    assert error < 3 * kernel_distance(x[torch.randperm(1000, generator=torch.Generator().manual_seed(0))], y)[1]


def test_pairs_that_share_their_indices_count_no_more_in_blocks_than_in_whole_sets():
    # as reconstructions do with what they are of; in the same order each pair would meet in its block
    x = normal(2000, 8, 1)
    whole, _ = kernel_distance(x, x, 1)
    value, error = kernel_distance(x, x, 20)
    assert whole < 0
    assert abs(value - whole) < 3 * error


@pytest.mark.parametrize("num_blocks", [1, 3])
def test_chunks_do_not_matter(monkeypatch, num_blocks):
    x, y = normal(61, 5, 3), normal(50, 5, 4, mean=0.3)
    whole = kernel_distance(x, y, num_blocks)
    monkeypatch.setattr(module, "CHUNK", 7)
    assert kernel_distance(x, y, num_blocks) == pytest.approx(whole, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize(("num", "blocks"), [(90, 2), (250, 5), (500, 10), (2500, 10), (12_000, 12)])
def test_blocks_by_default(num, blocks):
    x, y = normal(num, 1, 5), normal(num + 30, 1, 6)
    assert kernel_distance(x, y) == kernel_distance(x, y, blocks)


def test_one_block_has_no_error():
    assert math.isnan(kernel_distance(normal(9), normal(9), 1)[1])


def test_half_precision_is_computed_in_double():
    x, y = normal(64, 16, 7, mean=9.0).half(), normal(64, 16, 8, mean=9.0).half()
    assert kernel_distance(x, y, 2) == kernel_distance(x.double(), y.double(), 2)


@pytest.mark.parametrize("num_blocks", [0, 6])
def test_blocks_of_fewer_than_two_are_refused(num_blocks):
    with pytest.raises(UserError, match="10 samples and 20 of the reference .set num_blocks"):
        kernel_distance(normal(10), normal(20), num_blocks)
