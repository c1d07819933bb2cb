"""Laws of the adaptive sampler, on flows that are known exactly."""

import pytest
import torch

from lightning_gen.diffusion.adaptive import AdaptiveSampler, Cost
from lightning_gen.diffusion.denoisers import GaussianDenoiser, TrainingSetDenoiser
from lightning_gen.diffusion.guidance import ClassifierFree
from lightning_gen.diffusion.paths import Linear, SubVariancePreserving, VarianceExploding, VariancePreserving
from lightning_gen.diffusion.schedules import Cosine, FlowMatching, LinearBeta
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource, IndexedSource
from lightning_gen.specs import describe, overridden

MEAN = torch.tensor([0.7, -0.3], dtype=torch.float64)
STD = torch.tensor([0.5, 1.6], dtype=torch.float64)
AXES = [
    (Cosine(), VariancePreserving()),
    (LinearBeta(), VariancePreserving()),
    (Cosine(), VarianceExploding()),
    (Cosine(logsnr_min=-6.0), SubVariancePreserving()),
    (FlowMatching(), Linear()),
]


class Double(GeneratorSource):
    """Draws in float64, so that the solver's own error shows below float32's rounding."""

    def normal(self, shape, dtype=torch.float32):
        return super().normal(shape, torch.float64)


def gaussian(path):
    return GaussianDenoiser(MEAN, torch.diag(STD**2), path)


def trajectory(sampler, schedule, path, num=16):
    return list(sampler.trajectory(gaussian(path), schedule, (num, 2), None, Double(0)))


@pytest.mark.parametrize("tolerance", [1e-5, 1e-8])
@pytest.mark.parametrize(("schedule", "path"), AXES, ids=lambda axis: type(axis).__name__)
def test_every_point_lies_on_the_exact_flow(schedule, path, tolerance):
    """m_s + (x - m_t) std_s / std_t, in units of the point's own scale."""
    visited = trajectory(AdaptiveSampler(tolerance, tolerance), schedule, path)
    start, first = visited[0]
    assert [float(level.t) for _, level in visited[:: len(visited) - 1]] == [1.0, 0.0] and len(visited) == 11
    for x, level in visited:
        std, std_first = ((each.alpha**2 * STD**2 + each.sigma**2).sqrt() for each in (level, first))
        exact = level.alpha * MEAN + (start - first.alpha * MEAN) * std / std_first
        error = (x - exact).abs() / torch.hypot(level.alpha, level.sigma)
        assert error.max() < (20 if x is visited[-1].x else 80) * tolerance  # interpolated but for the end


def test_points_are_free_and_equally_spaced():
    few, many = AdaptiveSampler(points=1), AdaptiveSampler(points=33)
    ends = [trajectory(sampler, Cosine(), VariancePreserving())[-1].x for sampler in (few, many)]
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)
    assert few.cost == many.cost
    logsnr = torch.stack([level.logsnr for _, level in trajectory(many, Cosine(), VariancePreserving())])
    torch.testing.assert_close(logsnr, torch.linspace(-10, 10, 34, dtype=torch.float64))


def test_sample_of_an_index_does_not_depend_on_its_batch():
    examples = torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    memory = TrainingSetDenoiser(examples, VariancePreserving())

    def draw(indices):
        sampler = AdaptiveSampler()
        x = sampler.sample(memory, Cosine(), (len(indices), 2), None, IndexedSource(0, indices))
        return x, sampler.cost.evaluations

    whole, evaluations = draw(range(70))
    parts = [draw(part) for part in (range(0, 1), range(1, 65), range(65, 70))]
    torch.testing.assert_close(torch.cat([x for x, _ in parts]), whole, rtol=0, atol=1e-6)
    assert sum(count for _, count in parts) == evaluations


class Counting(TrainingSetDenoiser):
    """Counts the examples it is asked about."""

    asked = 0

    def __call__(self, x_t, logsnr, y=None):
        self.asked += len(x_t)
        return super().__call__(x_t, logsnr, y)


@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize("guidance", [None, ClassifierFree(1.5)], ids=["free", "guided"])
def test_what_it_cost_is_counted_truly(denoise, guidance):
    examples = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.2, -0.8]], dtype=torch.float64)
    denoiser = Counting(examples, VariancePreserving(), torch.tensor([0, 1, 1]))
    sampler = AdaptiveSampler(guidance=guidance, denoise=denoise)
    assert sampler.nfe is None and sampler.cost.nfe is None
    for num in (5, 3):
        y = torch.arange(num) % 2
        sampler.sample(denoiser, Cosine(), (num, 2), y, GeneratorSource(num))
    assert sampler.cost == Cost(8, denoiser.asked) and sampler.cost.nfe == denoiser.asked / 8


def test_a_tighter_tolerance_costs_more():
    costs = []
    for tolerance in (1e-3, 1e-5, 1e-7):
        sampler = AdaptiveSampler(tolerance, tolerance)
        trajectory(sampler, Cosine(), VariancePreserving())
        costs.append(sampler.cost.nfe)
    assert 20 < costs[0] < costs[1] < costs[2] < 1000


def test_what_it_cost_is_no_part_of_what_it_is():
    sampler = AdaptiveSampler(1e-3, 1e-4, points=3, guidance=ClassifierFree(2.0), denoise=True)
    spec = describe(sampler)
    trajectory(overridden(sampler, {"guidance": None}), Cosine(), VariancePreserving())
    again = overridden(None, spec)
    assert describe(again) == spec and spec["init_args"].keys() >= {"rtol", "atol", "points", "guidance", "denoise"}
    assert "rtol 0.001" in again.description


def test_the_state_keeps_its_precision_and_the_global_state_its_numbers():
    before = torch.get_rng_state()
    sampler, path = AdaptiveSampler(), VariancePreserving()
    x = sampler.sample(gaussian(path), Cosine(), (4, 2), None, GeneratorSource(0))
    assert x.dtype == torch.float32 and torch.equal(torch.get_rng_state(), before)


def test_bad_settings_are_refused():
    for bad in ({"points": 0}, {"rtol": 0.0}, {"atol": -1.0}, {"max_evaluations": 1}):
        with pytest.raises(UserError):
            AdaptiveSampler(**bad)
    with pytest.raises(UserError, match="max_evaluations"):
        trajectory(AdaptiveSampler(max_evaluations=20), Cosine(), VariancePreserving())
