import statistics

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.evaluation.extrapolation import frechet_at_infinity
from lightning_gen.evaluation.frechet import FeatureStatistics, Moments, Reference, frechet_distance

DIM = 48


class Law:
    """Gaussian features of known moments."""

    def __init__(self, seed, decay=0.0, apart=0.0):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(2, DIM, DIM, generator=generator, dtype=torch.float64)
        self.mean = apart * noise[0, 0]
        self.mix = torch.diag(torch.arange(1, DIM + 1, dtype=torch.float64) ** -decay) + apart * 0.1 * noise[1]
        self.moments = Moments(self.mean, self.mix.T @ self.mix, 10**9)

    def draw(self, num, seed):
        generator = torch.Generator().manual_seed(seed)
        return self.mean + torch.randn(num, DIM, generator=generator, dtype=torch.float64) @ self.mix


def moments_of(features):
    statistics = FeatureStatistics(features.shape[1])
    statistics.update(features)
    return statistics.compute()


CASES = {
    "equal laws": (Law(0), Law(0), 384),
    "equal laws, steep spectrum": (Law(0, decay=0.5), Law(0, decay=0.5), 400),
    "different laws": (Law(1, apart=0.3), Law(0), 384),
    "different laws, more samples": (Law(1, apart=0.3), Law(0), 1000),
}


@pytest.mark.parametrize(("law", "target", "num"), CASES.values(), ids=CASES)
def test_it_is_unbiased_and_its_error_honest(law, target, num):
    reference = Reference.from_moments(target.moments)
    truth = frechet_distance(law.moments, reference)
    found = [frechet_at_infinity(law.draw(num, seed), reference) for seed in range(60)]
    values, errors = [f.value for f in found], [f.se for f in found]
    spread = statistics.stdev(values)
    assert abs(statistics.mean(values) - truth) < 3 * spread / len(values) ** 0.5
    assert 0.8 < statistics.mean(errors) / spread < 1.35
    assert sum(abs(f.value - truth) < 2.5 * f.se for f in found) >= 0.9 * len(found)
    plain = statistics.mean(f.distances[-1] for f in found)
    assert plain - truth > 20 * spread / len(values) ** 0.5


def test_the_distances_are_those_of_disjoint_subsets():
    law, reference = Law(1, apart=0.3), Reference.from_moments(Law(0).moments)
    features = law.draw(402, 0)
    found = frechet_at_infinity(features, reference)
    assert found.sizes == (100, 201, 402)
    assert found.distances[-1] == pytest.approx(frechet_distance(moments_of(features), reference), rel=1e-12)
    assert found.distances[0] > found.distances[1] > found.distances[2] > found.value


def test_it_is_a_function_of_features_and_seed():
    features, reference = Law(1, apart=0.3).draw(400, 0), Reference.from_moments(Law(0).moments)
    before = torch.get_rng_state()
    first = frechet_at_infinity(features, reference, seed=5)
    assert frechet_at_infinity(features, reference, seed=5) == first
    assert torch.equal(torch.get_rng_state(), before)
    others = [frechet_at_infinity(features, reference, seed=seed).value for seed in range(10)]
    assert len(set(others)) == 10
    assert statistics.stdev(others) < first.se


def test_samples_sorted_by_class_fall_into_equal_parts():
    reference = Reference.from_moments(Law(0).moments)
    features = Law(1, apart=0.3).draw(600, 1)
    features[:300] += 3
    plain = frechet_at_infinity(features[torch.randperm(600, generator=torch.Generator().manual_seed(0))], reference)
    assert abs(frechet_at_infinity(features, reference).value - plain.value) < plain.se


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_it_is_in_squared_units_of_the_features(scale):
    features, target = Law(1, apart=0.3).draw(400, 2), Law(0).moments
    one = frechet_at_infinity(features, Reference.from_moments(target))
    scaled = Moments(scale * target.mean, scale**2 * target.cov, target.count)
    other = frechet_at_infinity(scale * features, Reference.from_moments(scaled))
    assert (other.value, other.se) == pytest.approx((scale**2 * one.value, scale**2 * one.se), rel=1e-6)


def test_directions_without_variance_change_nothing():
    """As of features that never fire, here in any direction: the covariances are singular but for rounding."""
    features, target = Law(1, apart=0.3).draw(500, 3), Law(0).moments
    one = frechet_at_infinity(features, Reference.from_moments(target))
    embed = torch.linalg.qr(torch.randn(60, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    singular = Reference.from_moments(Moments(embed @ target.mean, embed @ target.cov @ embed.T, target.count))
    other = frechet_at_infinity(features @ embed.T, singular)
    assert (other.value, other.se) == pytest.approx((one.value, one.se), rel=1e-9)


def test_too_few_samples_say_nothing():
    reference = Reference.from_moments(Law(0).moments)
    assert frechet_at_infinity(Law(0).draw(8 * DIM - 1, 0), reference) is None
    assert frechet_at_infinity(Law(0).draw(8 * DIM, 0), reference) is not None
    plane = Reference.from_moments(Moments(torch.zeros(2), torch.eye(2), 9))
    assert frechet_at_infinity(torch.randn(127, 2), plane) is None


def test_features_that_cannot_be_measured_are_refused():
    features, reference = Law(0).draw(400, 0), Reference.from_moments(Law(0).moments)
    with pytest.raises(UserError, match="47 features and the reference has 48"):
        frechet_at_infinity(features[:, 1:], reference)
    features[3, 4] = torch.nan
    with pytest.raises(UserError, match="NaN or infinite"):
        frechet_at_infinity(features, reference)
