import math

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.evaluation import manifold
from lightning_gen.evaluation.manifold import manifold_metrics


def normal(num, dim, seed):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def by_definition(samples, reference, k, k_density):
    """The four in exact integers, point by point."""

    def squared(a, b):
        return sum((u - v) ** 2 for u, v in zip(a, b))

    def radii(points, k):
        return [sorted(squared(p, q) for j, q in enumerate(points) if j != i)[k - 1] for i, p in enumerate(points)]

    def within(points, centres, k):
        edges = radii(centres, k)
        return [[squared(p, c) <= edge for c, edge in zip(centres, edges)] for p in points]

    dense = within(samples, reference, k_density)
    return {
        "precision": sum(map(any, within(samples, reference, k))) / len(samples),
        "recall": sum(map(any, within(reference, samples, k))) / len(reference),
        "density": sum(map(sum, dense)) / (k_density * len(samples)),
        "coverage": sum(map(any, zip(*dense))) / len(reference),
    }


@pytest.mark.parametrize("chunk", [5, 32, 2048])
@pytest.mark.parametrize(("dim", "side"), [(1, 30), (2, 6), (3, 3)])
@pytest.mark.parametrize(("k", "k_density"), [(3, 5), (4, 1)])
def test_points_of_a_lattice_lie_on_each_others_edges(monkeypatch, chunk, dim, side, k, k_density):
    generator = torch.Generator().manual_seed(dim)
    samples = torch.randint(side, (40, dim), generator=generator)
    reference = torch.randint(side // 2, side + side // 2, (53, dim), generator=generator)
    expected = by_definition(samples.tolist(), reference.tolist(), k, k_density)
    assert 0 < expected["precision"] < 1 or 0 < expected["recall"] < 1
    monkeypatch.setattr(manifold, "CHUNK", chunk)
    for scale in (1.0, 1 / 3, 1e4):
        assert manifold_metrics(scale * samples.double(), scale * reference.double(), k, k_density) == pytest.approx(
            expected, rel=1e-12
        )


@pytest.mark.parametrize("chunk", [64, 100, 2048])
def test_a_copy_lies_on_every_edge(monkeypatch, chunk):
    points = normal(150, 40, 1)
    monkeypatch.setattr(manifold, "CHUNK", chunk)
    copied = manifold_metrics(points[torch.arange(149, -1, -1)], points)
    assert copied == {
        "precision": 1,
        "recall": 1,
        "density": pytest.approx(6 / 5),
        "coverage": 1,
    }  # k others and itself


def test_sets_far_apart_share_nothing():
    assert set(manifold_metrics(normal(50, 4, 2) + 100, normal(60, 4, 3)).values()) == {0.0}


def test_a_missing_mode_costs_recall_and_coverage_only():
    reference = torch.cat([normal(200, 2, 4), normal(200, 2, 5) + 50])
    found = manifold_metrics(normal(400, 2, 6), reference)
    assert found["precision"] > 0.9
    assert found["density"] == pytest.approx(1, abs=0.15)
    assert 0.4 < found["recall"] <= 0.5
    assert 0.45 < found["coverage"] <= 0.5


def test_invention_costs_precision_and_density_only():
    samples = torch.cat([normal(200, 2, 7), normal(200, 2, 8) + 50])
    found = manifold_metrics(samples, normal(200, 2, 9))
    assert 0.4 < found["precision"] <= 0.5
    assert found["density"] == pytest.approx(0.5, abs=0.05)
    assert found["recall"] > 0.9


@pytest.mark.parametrize("k", [1, 5])
def test_equal_laws_have_closed_forms(k):
    """Whatever the law: the ball to the k-th of M - 1 others holds a sample with probability k / M, and none of N with
    that of the k nearest of all M - 1 + N being reference points."""
    num_samples, num = 300, 200
    runs = [manifold_metrics(normal(num_samples, 3, s), normal(num, 3, 1000 + s), k, k) for s in range(40)]
    density = sum(run["density"] for run in runs) / len(runs)
    coverage = sum(run["coverage"] for run in runs) / len(runs)
    missed = math.prod((num - 1 - i) / (num - 1 + num_samples - i) for i in range(k))
    assert density == pytest.approx(1, abs=0.02)
    assert coverage == pytest.approx(1 - missed, abs=0.01)


def test_exchanging_the_sets_exchanges_precision_and_recall():
    a, b = normal(120, 6, 10), 1.4 * normal(90, 6, 11)
    one, other = manifold_metrics(a, b), manifold_metrics(b, a)
    assert (one["precision"], one["recall"]) == (other["recall"], other["precision"])
    assert one["precision"] != one["recall"]


def test_motions_and_scales_change_nothing():
    a, b = normal(100, 5, 12).double(), 1.2 * normal(100, 5, 13).double()
    rotation, _ = torch.linalg.qr(normal(5, 5, 14).double())
    expected = manifold_metrics(a, b)
    assert manifold_metrics(a @ rotation, b @ rotation) == expected
    assert manifold_metrics(1e3 * a, 1e3 * b) == expected
    assert manifold_metrics(a + 1e6, b + 1e6) == expected  # float64 has 9 digits left; squares of 1e6 would leave 4


@pytest.mark.parametrize(("num", "reference"), [(5, 20), (20, 5)])
def test_fewer_points_than_neighbours_are_refused(num, reference):
    with pytest.raises(UserError, match="more than 5 .* got 5: set num_samples"):
        manifold_metrics(torch.zeros(num, 2), torch.zeros(reference, 2))


def test_points_on_one_spot_have_balls_of_no_size():
    spot, apart = torch.ones(10, 3), torch.ones(10, 3) + 1e-3
    assert manifold_metrics(spot, spot)["precision"] == 1
    assert set(manifold_metrics(apart, spot).values()) == {0.0}
