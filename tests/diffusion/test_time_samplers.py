"""Laws of the time samplers: uniform marginals, strata that cover, the same whatever the number of ranks."""

import pytest
import torch

from lightning_gen.diffusion import (
    Cosine,
    FlowMatching,
    Karras,
    Linear,
    LinearBeta,
    LogitNormal,
    LogNormal,
    LossSecondMoment,
    LowDiscrepancy,
    Uniform,
    VariancePreserving,
)
from lightning_gen.random_source import GeneratorSource

SCHEDULE = Cosine()


def at(t, schedule=SCHEDULE):
    return VariancePreserving().at(schedule, t)


def bumpy(**kwargs):
    """A sampler that has met losses three times as large in the middle as elsewhere."""
    sampler = LossSecondMoment(parts=20, **kwargs)
    for _ in range(12):
        t = torch.linspace(0, 1, 401)[:-1] + 1e-4
        weight = 1 / sampler.density(at(t))
        sampler.observe(at(t), torch.where((t > 0.4) & (t < 0.6), 3.0, 1.0) * weight, 400)
    return sampler


@pytest.mark.parametrize("sampler", [Uniform(), LowDiscrepancy()])
def test_marginally_uniform(sampler):
    rng = GeneratorSource(0)
    t = torch.stack([sampler.sample(16, rng, SCHEDULE) for _ in range(2000)])
    assert t.min() >= 0 and t.max() <= 1
    moments = [t.double().pow(k).mean().item() for k in (1, 2, 3)]
    assert moments == pytest.approx([1 / 2, 1 / 3, 1 / 4], abs=0.01)
    torch.testing.assert_close(sampler.density(at(t)), torch.ones_like(t))


@pytest.mark.parametrize("num", [1, 7, 128, 100_000])
def test_every_stratum_is_met_once(num):
    t = LowDiscrepancy().sample(num, GeneratorSource(1), SCHEDULE).double()
    strata = (t * num - 1e-3).floor().clamp(0, num - 1).long()  # float32 may touch the next stratum's edge
    assert t.max() <= 1
    assert strata.unique().numel() >= num * 0.97


def test_low_discrepancy_lowers_the_variance():
    def spread(sampler):
        rng = GeneratorSource(3)
        return torch.stack([sampler.sample(64, rng, SCHEDULE).square().mean() for _ in range(300)]).std().item()

    assert spread(LowDiscrepancy()) < 0.2 * spread(Uniform())


@pytest.mark.parametrize("num", [64, 100, 96])
def test_every_share_covers_the_unit_interval(num):
    """Eight ranks or micro-batches: each has times from all over, not a stretch of its own."""
    t = LowDiscrepancy().sample(num, GeneratorSource(2), SCHEDULE)
    for share in t.chunk(8):
        assert share.sort().values.diff().max() < 0.4
        assert share.mean().item() == pytest.approx(0.5, abs=0.12)


OTHERS = [
    (LogNormal(), Karras(0.002, 80.0)),
    (LogNormal(-0.4, 1.0, stratified=False), Cosine()),
    (LogitNormal(), FlowMatching()),
    (LogitNormal(0.5, 0.7, stratified=False), LinearBeta()),
    (bumpy(), Cosine()),
    (bumpy(stratified=False, floor=0.2), Cosine()),
]


@pytest.mark.parametrize(("sampler", "schedule"), OTHERS, ids=lambda each: type(each).__name__)
def test_the_times_have_the_density_they_say(sampler, schedule):
    """1/p(t) is what the loss divides by: E_p[f / p] must be the plain integral of f, and p integrate to 1."""
    t = sampler.sample(200_000, GeneratorSource(0), schedule)
    assert t.min() >= 0 and t.max() <= 1
    middle = torch.linspace(0, 1, 200_001, dtype=torch.float64)[:-1] + 2.5e-6
    density = sampler.density(at(middle, schedule))
    assert density.mean().item() == pytest.approx(1.0, abs=2e-3)
    for k in (1, 2, 3):
        assert t.double().pow(k).mean().item() == pytest.approx((density * middle**k).mean().item(), abs=4e-3)


def test_log_normal_is_edms():
    """log sigma ~ N(-1.2, 1.2^2) between 0.002 and 80, all but untouched by the cut."""
    schedule = Karras(0.002, 80.0)
    t = LogNormal().sample(100_000, GeneratorSource(1), schedule)
    log_sigma = -0.5 * schedule.logsnr(t.double())
    assert log_sigma.mean().item() == pytest.approx(-1.2, abs=0.01)
    assert log_sigma.std().item() == pytest.approx(1.2, abs=0.01)


def test_logit_normal_is_sd3s():
    t = LogitNormal(0.5, 0.8).sample(100_000, GeneratorSource(1), FlowMatching())
    assert torch.logit(t.double()).mean().item() == pytest.approx(0.5, abs=0.01)
    assert torch.logit(t.double()).std().item() == pytest.approx(0.8, abs=0.01)


def test_importance_follows_the_root_of_the_second_moment():
    """p is proportional to sqrt E[L^2]: three times as dense where the loss is three times as large, once it is warm."""
    sampler = bumpy(floor=1e-6)
    t = torch.tensor([0.1, 0.5, 0.9])
    density = sampler.density(at(t))
    assert (density[1] / density[0]).item() == pytest.approx(3.0, rel=1e-3)
    assert (density[1] / density[2]).item() == pytest.approx(3.0, rel=1e-3)
    cold = LossSecondMoment(parts=20)
    cold.observe(at(torch.full((50,), 0.5)), torch.full((50,), 9.0), 50)
    torch.testing.assert_close(cold.density(at(t)), torch.ones(3))


def test_importance_lowers_the_variance_and_leaves_the_mean():
    def losses(sampler):
        t = sampler.sample(100_000, GeneratorSource(4), SCHEDULE)
        return torch.where((t > 0.4) & (t < 0.6), 3.0, 1.0) / sampler.density(at(t))

    plain, important = losses(Uniform()), losses(bumpy(stratified=False))
    assert important.mean().item() == pytest.approx(1.4, rel=0.01) == pytest.approx(plain.mean().item(), rel=0.02)
    assert important.var() < 0.05 * plain.var()


def test_importance_is_part_of_the_state():
    """A resumed run must draw the times that it would have drawn."""
    warm, fresh = bumpy(), LossSecondMoment(parts=20)
    fresh.load_state_dict(warm.state_dict())
    drawn = [each.sample(64, GeneratorSource(5), SCHEDULE) for each in (warm, fresh)]
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(LossSecondMoment(parts=20).sample(64, GeneratorSource(5), SCHEDULE))


def test_the_tails_of_logit_normal_are_kept_off_the_ends():
    level = Linear().at(FlowMatching(), LogitNormal(std=10.0).sample(10_000, GeneratorSource(0), FlowMatching()))
    assert LogitNormal(std=10.0).density(level).isfinite().all()


def test_importance_changes_between_steps_alone():
    """Micro-batches of a step are drawn from one density, and leave what the whole batch would have left."""
    whole, cut = bumpy(), bumpy()
    t, loss = torch.linspace(0.01, 0.99, 40), torch.linspace(1, 5, 40)
    before = cut.density(at(t))
    for rows in torch.arange(40).chunk(4)[:-1]:
        cut.observe(at(t[rows]), loss[rows], 40)
        assert cut.density(at(t)).equal(before)
    cut.observe(at(t[30:]), loss[30:], 40)
    whole.observe(at(t), loss, 40)
    assert not cut.density(at(t)).equal(before)
    torch.testing.assert_close(cut.density(at(t)), whole.density(at(t)))
