import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gen.errors import UserError
from lightning_gen.evaluation.frechet import FeatureStatistics, Moments, Reference, frechet_distance, upper_congruence


def features_of(num, dim, seed, scale=1.0, shift=0.0):
    """Correlated features: a random linear map of normal vectors."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator, dtype=torch.float64) / dim**0.5
    return shift + scale * torch.randn(num, dim, generator=generator, dtype=torch.float64) @ mix


def moments_of(*batches):
    statistics = FeatureStatistics(batches[0].shape[1])
    for batch in batches:
        statistics.update(batch)
    return statistics.compute()


def distance(a, b):
    return frechet_distance(a, Reference.from_moments(b))


def nuclear_distance(a, b):
    """The distance from the data themselves: tr (S_a S_b)^(1/2) is the nuclear norm of the product of their factors."""
    centred = [(x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (a, b)]
    overlap = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    spread = sum(x.square().sum() for x in centred)
    return float((a.mean(0) - b.mean(0)).square().sum() + spread - 2 * overlap)


def test_moments_are_the_unbiased_ones():
    features = features_of(50, 6, seed=0, shift=3.0)
    moments = moments_of(features)
    torch.testing.assert_close(moments.mean, features.mean(0), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(moments.cov, np.cov(features.numpy(), rowvar=False), rtol=1e-11, atol=1e-13)
    assert moments.count == 50
    assert torch.equal(moments.cov, moments.cov.T)


def test_one_feature_keeps_its_dimension():
    moments = moments_of(torch.tensor([[1.0], [2.0], [6.0]]))
    assert moments.mean.tolist() == [3.0]
    assert moments.cov.tolist() == [[7.0]]


def test_a_large_mean_costs_little_precision():
    features = features_of(2000, 8, seed=1)
    apart, beside = moments_of(features + 100.0).cov, moments_of(features).cov
    assert (apart - beside).norm() < 1e-10 * beside.norm()


@pytest.mark.parametrize("sizes", [[1] * 40, [7, 0, 33], [20, 20]])
def test_batch_sizes_do_not_matter(sizes):
    features = features_of(40, 5, seed=2).float()
    whole, parts = moments_of(features), moments_of(*features.split(sizes))
    torch.testing.assert_close(parts.cov, whole.cov, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-12, atol=1e-14)
    assert parts.count == 40


def test_reducing_uneven_shards_equals_one_process():
    features = features_of(40, 5, seed=3).float()
    ranks = [FeatureStatistics(5) for _ in range(4)]
    for rank, shard in zip(ranks, features.split([3, 25, 12])):  # the fourth rank sees nothing
        rank.update(shard)

    def gather(state, group=None):
        name = next(n for n in ranks[1].metric_state if getattr(ranks[1], n) is state)
        return [getattr(rank, name) for rank in ranks]

    ranks[1].dist_sync_fn, ranks[1].distributed_available_fn = gather, lambda: True
    reduced, whole = ranks[1].compute(), moments_of(features)
    assert reduced.count == 40
    torch.testing.assert_close(reduced.cov, whole.cov, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(reduced.mean, whole.mean, rtol=1e-12, atol=1e-14)
    assert ranks[1].num_samples == 25  # its own sums again, to go on with


CASTS = {
    "to": lambda m: m.to(torch.float16),
    "half": lambda m: m.half(),
    "bfloat16": lambda m: m.bfloat16(),
    "float": lambda m: m.float(),
    "type": lambda m: m.type(torch.float32),
    "set_dtype": lambda m: [s.set_dtype(torch.float32) for s in m.modules() if isinstance(s, FeatureStatistics)],
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
def test_casting_the_module_around_it_leaves_the_sums_alone(cast):
    features = features_of(30, 4, seed=4, shift=10.0)
    module = nn.Module()
    module.statistics = FeatureStatistics(4)
    module.statistics.update(features[:10])
    cast(module)
    with torch.autocast("cpu", torch.bfloat16):
        module.statistics.update(features[10:])
    assert all(state.dtype == torch.float64 for state in module.statistics.metric_state.values())
    assert torch.allclose(module.statistics.compute().cov, moments_of(features).cov, rtol=1e-12)
    module.statistics.reset()
    assert all(state.dtype == torch.float64 for state in module.statistics.metric_state.values())


def test_it_moves_between_devices():
    statistics = FeatureStatistics(3).to("meta")
    assert {state.device.type for state in statistics.metric_state.values()} == {"meta"}


def test_copies_go_on_from_the_same_sums():
    statistics = FeatureStatistics(4)
    features = features_of(20, 4, seed=5)
    statistics.update(features[:9])
    for copied in (copy.deepcopy(statistics), pickle.loads(pickle.dumps(statistics))):
        copied.update(features[9:])
        assert torch.allclose(copied.compute().cov, moments_of(features).cov, rtol=1e-12)


def test_diagonal_gaussians_have_a_closed_form():
    a = Moments(torch.tensor([0.0, 1.0, 2.0]), torch.diag(torch.tensor([4.0, 1.0, 0.0])), 10)
    b = Moments(torch.tensor([1.0, 1.0, 0.0]), torch.diag(torch.tensor([1.0, 9.0, 16.0])), 20)
    assert distance(a, b) == pytest.approx(5 + 1 + 4 + 16, rel=1e-14)  # |mean|^2 + sum of (sd - sd')^2


@pytest.mark.parametrize("dim", [3, 64, 300])
def test_it_equals_the_matrix_square_root(dim):
    linalg = pytest.importorskip("scipy.linalg")
    a, b = moments_of(features_of(500, dim, 6)), moments_of(features_of(400, dim, 7, scale=1.3, shift=0.2))
    root = linalg.sqrtm(a.cov.numpy() @ b.cov.numpy())
    expected = float((a.mean - b.mean).square().sum() + (a.cov + b.cov).trace()) - 2 * np.trace(root).real
    assert distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("num_a", "num_b"), [(20, 30), (30, 200), (200, 20)])
@pytest.mark.parametrize("decay", [0.0, 2.0], ids=["flat spectrum", "steep spectrum"])
def test_fewer_samples_than_features(num_a, num_b, decay):
    spectrum = torch.arange(1, 97, dtype=torch.float64) ** -decay
    a, b = features_of(num_a, 96, 8) * spectrum, features_of(num_b, 96, 9, scale=1.2) * spectrum
    assert distance(moments_of(a), moments_of(b)) == pytest.approx(nuclear_distance(a, b), rel=1e-5)


def test_the_noise_of_hundreds_of_null_directions_does_not_add_up():
    a, b = features_of(12, 400, 10), features_of(15, 400, 11)
    assert distance(moments_of(a), moments_of(b)) == pytest.approx(nuclear_distance(a, b), rel=1e-12)


def test_spectra_that_hardly_overlap():
    a, b = torch.zeros(2, 60, 40, dtype=torch.float64)
    a[:, :20], b[:, 20:] = features_of(60, 20, 12), features_of(60, 20, 13)
    assert distance(moments_of(a), moments_of(b)) == pytest.approx(nuclear_distance(a, b), rel=1e-12)


@pytest.mark.parametrize("num", [10, 200])
def test_it_is_zero_for_equals_and_symmetric(num):
    a, b = moments_of(features_of(num, 32, 14)), moments_of(features_of(num + 5, 32, 15))
    assert 0 <= distance(a, a) < 1e-6 * float(a.cov.trace())
    assert distance(a, b) > 0.01
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-6)


@pytest.mark.parametrize("num", [30, 500], ids=["singular", "full rank"])
def test_the_factor_is_a_triangular_root(num):
    reference = Reference.from_moments(moments_of(features_of(num, 96, 22)))
    assert torch.equal(reference.factor, reference.factor.triu())
    for product in (reference.factor.T @ reference.factor, reference.root @ reference.root):
        torch.testing.assert_close(product, reference.moments.cov, rtol=0, atol=1e-13)
    torch.testing.assert_close(reference.root, reference.root.T, rtol=0, atol=1e-14)


@pytest.mark.parametrize("block", [1, 7, 32, 50, 64])
def test_a_congruence_by_blocks(block):
    factor, cov = features_of(50, 50, 23).triu(), moments_of(features_of(80, 50, 24)).cov
    found = upper_congruence(factor, cov, block).triu()
    torch.testing.assert_close(found, (factor @ cov @ factor.T).triu(), rtol=0, atol=1e-12)


def test_a_translation_adds_its_square():
    features = features_of(100, 8, 16)
    shift = torch.linspace(-1, 2, 8, dtype=torch.float64)
    moved = distance(moments_of(features + shift), moments_of(features))
    assert moved == pytest.approx(float(shift @ shift), rel=1e-10)


def test_rotation_leaves_it_and_scale_squares_it():
    a, b = features_of(100, 8, 17), features_of(90, 8, 18, shift=0.5)
    rotation, _ = torch.linalg.qr(features_of(8, 8, 19))
    expected = distance(moments_of(a), moments_of(b))
    assert distance(moments_of(a @ rotation), moments_of(b @ rotation)) == pytest.approx(expected, rel=1e-9)
    assert distance(moments_of(3 * a), moments_of(3 * b)) == pytest.approx(9 * expected, rel=1e-9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_are_refused(bad):
    features = torch.ones(5, 3)
    features[2, 1] = bad
    with pytest.raises(UserError, match="NaN or infinite"):
        moments_of(features, torch.ones(5, 3))


@pytest.mark.parametrize("num", [0, 1])
def test_too_few_samples_are_refused(num):
    with pytest.raises(UserError, match=f"at least 2 samples, got {num}"):
        moments_of(torch.ones(num, 3))


def test_features_of_another_width_are_refused():
    with pytest.raises(UserError, match=r"\(4, 5\)"):
        FeatureStatistics(3).update(torch.ones(4, 5))
    a, b = moments_of(features_of(9, 3, 20)), moments_of(features_of(9, 4, 21))
    with pytest.raises(UserError, match="3 features and the reference has 4"):
        distance(a, b)
