"""Laws of every schedule: ends, slope, inverse, its description, and the floating-point traps at the ends."""

import math

import pytest
import torch

from lightning_gen import specs
from lightning_gen.diffusion import VariancePreserving, schedules
from lightning_gen.diffusion.schedules import (
    Cosine,
    DiscreteCosine,
    DiscreteLinearBeta,
    FlowMatching,
    Geometric,
    Karras,
    Laplace,
    LearnedLinear,
    LearnedMonotone,
    LinearBeta,
    LinearLogSNR,
    NoiseSchedule,
    Shifted,
    Sigmoid,
    SubVPLinearBeta,
    Truncated,
    ZeroTerminal,
)
from lightning_gen.errors import UserError

PINNED = [
    LinearBeta,
    SubVPLinearBeta,
    Cosine,
    Sigmoid,
    FlowMatching,
    LinearLogSNR,
    Laplace,
    LearnedLinear,
    LearnedMonotone,
]
EVERY = {
    **{kind.__name__: kind for kind in PINNED},
    "LearnedMonotone": lambda: LearnedMonotone(hidden=64),
    "FlowMatching, shifted": lambda: FlowMatching(shift=3.0),
    "Laplace, off the middle": lambda: Laplace(location=2.0, scale=1.5, logsnr_min=-7.0, logsnr_max=12.0),
    "Laplace, far into its tails": lambda: Laplace(scale=0.25, logsnr_min=-20.0, logsnr_max=20.0),
    "Karras": Karras,
    "Geometric": Geometric,
    "DiscreteLinearBeta": DiscreteLinearBeta,
    "DiscreteLinearBeta, 3 steps": lambda: DiscreteLinearBeta(3, 0.1, 0.6),
    "DiscreteLinearBeta, cut": lambda: DiscreteLinearBeta(logsnr_min=-8.0, logsnr_max=7.0),
    "DiscreteCosine": DiscreteCosine,
    "Truncated": lambda: Truncated(Karras(), -6.0, 5.0),
    "Shifted": lambda: Shifted(Cosine(), shift=-2.5),
    "Shifted, for resolution": lambda: Shifted(LinearBeta(), resolution=256),
    "ZeroTerminal": lambda: ZeroTerminal(LinearBeta()),
    "ZeroTerminal, of a short one": lambda: ZeroTerminal(DiscreteLinearBeta(20), logsnr_min=-60.0),
    "wrapped thrice": lambda: ZeroTerminal(Shifted(Truncated(Laplace(), -6.0, 8.0), resolution=32)),
}
every = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
T = torch.linspace(0, 1, 1001, dtype=torch.float64)


@every
def test_runs_between_its_ends_and_falls(make):
    schedule = make()
    logsnr = schedule.logsnr(T).detach()
    tolerance = {"abs": 1e-9, "rel": 1e-9}  # ZeroTerminal: float64's rounding of alpha beside alpha(1)
    assert logsnr[0].item() == pytest.approx(schedule.logsnr_max, **tolerance)
    assert logsnr[-1].item() == pytest.approx(schedule.logsnr_min, **tolerance)
    assert (logsnr.diff() < 0).all()
    assert (schedule.dlogsnr_dt(T) < 0).all()


@pytest.mark.parametrize("make", PINNED)
@pytest.mark.parametrize("ends", [(-10.0, 10.0), (-4.0, 13.0), (-9.5, 2.0)])
def test_ends_are_those_asked_for(make, ends):
    logsnr = make(logsnr_min=ends[0], logsnr_max=ends[1]).logsnr(T).detach()
    within = 1e-5 if make().learned else 1e-9  # parameters are float32
    assert logsnr[0].item() == pytest.approx(ends[1], abs=within)
    assert logsnr[-1].item() == pytest.approx(ends[0], abs=within)


@every
def test_slope_is_the_derivative(make):
    t = T.clone().requires_grad_()
    schedule = make()
    (slope,) = torch.autograd.grad(schedule.logsnr(t).sum(), t)
    torch.testing.assert_close(schedule.dlogsnr_dt(T).detach(), slope, rtol=1e-7, atol=0)


@every
def test_slope_integrates_to_the_fall(make):
    """Simpson's rule on each tenth of [0.01, 0.99]: what autograd differentiates is what the slope stands for."""
    schedule = make()
    edges = torch.linspace(0.01, 0.99, 11, dtype=torch.float64)
    nodes = edges[:-1, None] + (edges[1:] - edges[:-1])[:, None] * torch.linspace(0, 1, 2001, dtype=torch.float64)
    weights = torch.ones(2001, dtype=torch.float64)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    integral = (schedule.dlogsnr_dt(nodes).detach() * weights).sum(-1) * (edges[1] - edges[0]) / 6000
    torch.testing.assert_close(integral, schedule.logsnr(edges).detach().diff(), rtol=1e-5, atol=0)


@every
def test_time_inverts_logsnr(make):
    schedule = make()
    torch.testing.assert_close(schedule.time(schedule.logsnr(T).detach()), T, rtol=0, atol=1e-10)
    logsnr = torch.linspace(schedule.logsnr_min, schedule.logsnr_max, 1001, dtype=torch.float64)[1:-1]
    there = schedule.time(logsnr)
    # as near as the rounding of t lets it
    allowed = 1e-9 + 1e-15 * schedule.dlogsnr_dt(there).detach().abs()
    assert ((schedule.logsnr(there).detach() - logsnr).abs() <= allowed).all()


@every
def test_float32_is_finite_and_keeps_its_dtype_and_shape(make):
    schedule = make()
    t = torch.tensor([[0.0, 0.3], [0.7, 1.0]])
    logsnr, slope = schedule.logsnr(t), schedule.dlogsnr_dt(t)
    for value in (logsnr, slope, schedule.time(logsnr.detach())):
        assert value.dtype == torch.float32 and value.shape == t.shape and torch.isfinite(value).all()
    assert schedule.logsnr(T[3]).shape == ()


@every
def test_description_builds_the_same_schedule(make):
    schedule = make()
    described = specs.describe(schedule)
    again = specs.build(described, NoiseSchedule)
    assert type(again) is type(schedule) and specs.describe(again) == described
    torch.testing.assert_close(again.logsnr(T), schedule.logsnr(T), rtol=1e-9, atol=1e-9)


@every
def test_state_holds_nothing_but_what_is_learned(make):
    schedule = make()
    assert bool(schedule.state_dict()) == schedule.learned == any(p.requires_grad for p in schedule.parameters())


@pytest.mark.parametrize("make", PINNED)
@pytest.mark.parametrize("end", [10.0, 20.0])
def test_a_float32_record_is_exact_up_to_the_ends(make, end):
    """In float32 arithmetic the sigmoid schedule at 20 is infinite, and the cosine one off by 1e-3."""
    schedule = make(logsnr_min=-10.0, logsnr_max=end)
    single, double = VariancePreserving().at(schedule, T.float()), VariancePreserving().at(schedule, T.float().double())
    for name in ("logsnr", "alpha", "sigma", "dlogsnr_dt", "dalpha_dt", "dsigma_dt"):
        torch.testing.assert_close(getattr(single, name).double(), getattr(double, name), rtol=1e-6, atol=1e-30)


def test_names_of_every_public_schedule_are_covered():
    """A schedule that is added is held to the laws above."""
    kinds = {getattr(schedules, name) for name in schedules.__all__}
    concrete = {k for k in kinds if issubclass(k, NoiseSchedule) and not k.__abstractmethods__}
    assert concrete == {type(make()) for make in EVERY.values()}


def test_ends_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="reaches log-SNR -10.05 to inf"):
        LinearBeta(logsnr_min=-12.0)
    for kind in (Cosine, Laplace, LearnedLinear):
        with pytest.raises(UserError, match="finite"):
            kind(logsnr_max=math.inf)
        with pytest.raises(UserError, match="logsnr_min < logsnr_max"):
            kind(logsnr_min=3.0, logsnr_max=2.0)
