"""Learned schedules: ends and shape follow the gradients they should, and stay schedules whatever training does."""

import pytest
import torch

from lightning_gen.diffusion.schedules import GradientScale, LearnedLinear, LearnedMonotone
from lightning_gen.errors import UserError

T = torch.linspace(0, 1, 301, dtype=torch.float64)


def trained(hidden=7, seed=0, size=1.5):
    """A schedule whose parameters are anywhere."""
    schedule = LearnedMonotone(hidden=hidden)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in schedule.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return schedule


def losses(logsnr, slope, weight):
    """A per-example loss in closed form, [B]: smooth, depends on log-SNR and on its slope."""
    return -slope * torch.sigmoid(0.5 * logsnr + weight) + 0.1 * logsnr * weight


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [1.0, 10.0])
def test_whatever_the_parameters_it_falls_between_its_ends(seed, size):
    schedule = trained(seed=seed, size=size)
    logsnr, slope = (value.detach() for value in (schedule.logsnr(T), schedule.dlogsnr_dt(T)))
    assert logsnr[0].item() == schedule.logsnr_max > schedule.logsnr_min
    assert logsnr[-1].item() == pytest.approx(schedule.logsnr_min, abs=1e-9)
    assert (logsnr.diff() < 0).all() and (slope < 0).all()
    found = schedule.time(logsnr)
    reached = schedule.logsnr(found).detach()
    assert not found.requires_grad
    torch.testing.assert_close(reached, logsnr, rtol=0, atol=1e-10)
    if size == 1.0:
        torch.testing.assert_close(found, T, rtol=0, atol=1e-10)


def test_the_order_of_the_ends_cannot_be_lost():
    schedule = LearnedLinear(-1.0, 1.0)
    with torch.no_grad():
        schedule.raw_span.fill_(-30.0)
    assert schedule.logsnr_min < schedule.logsnr_max


def test_every_parameter_has_the_gradient_of_log_snr_and_of_its_slope():
    """Against central differences in each parameter, in float64."""
    schedule, t = trained(hidden=3).double(), torch.tensor([0.0, 0.2, 0.6, 1.0], dtype=torch.float64)

    def outputs(*values):
        named = dict(zip(dict(schedule.named_parameters()), values))
        call = torch.func.functional_call
        return call(_Both(schedule), {f"schedule.{k}": v for k, v in named.items()}, (t,))

    values = tuple(p.detach().clone().requires_grad_() for p in schedule.parameters())
    assert torch.autograd.gradcheck(outputs, values, atol=1e-6)


class _Both(torch.nn.Module):
    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def forward(self, t):
        return self.schedule.logsnr_and_slope(t)


def test_ends_carry_gradients_and_read_as_floats():
    schedule = LearnedMonotone(-5.0, 13.3, hidden=4)
    low, high = schedule.ends
    assert low.dtype == torch.float64 and isinstance(schedule.logsnr_min, float)
    assert (
        (schedule.logsnr_min, schedule.logsnr_max) == (low.item(), high.item()) == pytest.approx((-5.0, 13.3), abs=1e-6)
    )
    low.backward()
    assert schedule.high.grad == 1 and schedule.raw_span.grad < 0
    assert all(p.grad is None for name, p in schedule.named_parameters() if name not in ("high", "raw_span"))


def test_one_backward_pass_gives_the_ends_the_loss_and_the_shape_its_variance():
    """The shape's gradient is that of sum L^2, the ends' that of sum L: here against two passes that take each alone."""
    schedule = trained(hidden=5).double()
    generator = torch.Generator().manual_seed(3)
    t, weight = torch.rand(2, 16, generator=generator, dtype=torch.float64)
    names = [name for name, _ in schedule.named_parameters()]
    parameters = list(schedule.parameters())

    plain = losses(*schedule.logsnr_and_slope(t), weight)
    of_loss = dict(zip(names, torch.autograd.grad(plain.sum(), parameters, retain_graph=True)))
    of_square = dict(zip(names, torch.autograd.grad(plain.square().sum(), parameters)))

    scale = GradientScale()
    loss = losses(*schedule.logsnr_and_slope(t, scale), weight)
    torch.testing.assert_close(loss, plain)
    scale.factor = 2 * loss.detach()
    both = dict(zip(names, torch.autograd.grad(loss.sum(), parameters)))
    for name in names:
        expected = of_loss if name in ("high", "raw_span") else of_square
        torch.testing.assert_close(both[name], expected[name], rtol=1e-9, atol=1e-12)
        assert both[name].abs().max() > 0


def test_the_variance_gradient_makes_the_estimate_less_noisy():
    """An integrand known over log-SNR: its mean under uniform t stays, its variance falls to a tenth."""
    schedule = LearnedMonotone(-5.0, 5.0, hidden=32)
    shape = [p for name, p in schedule.named_parameters() if name not in ("high", "raw_span")]
    optimizer = torch.optim.Adam(shape, lr=0.05)
    t = (torch.arange(256, dtype=torch.float64) + 0.5) / 256

    def estimate(scale=None):
        logsnr, slope = schedule.logsnr_and_slope(t, scale)
        return -slope * torch.exp(-0.5 * (logsnr - 2).square())

    before = estimate().detach()
    for _ in range(300):
        scale = GradientScale()
        loss = estimate(scale)
        scale.factor = 2 * loss.detach()
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    after = estimate().detach()
    assert after.mean().item() == pytest.approx(before.mean().item(), rel=1e-2)
    assert after.var() < 0.1 * before.var()


def test_a_forgotten_factor_is_an_error():
    logsnr, _ = trained().logsnr_and_slope(T, GradientScale())
    with pytest.raises(RuntimeError, match="before the backward pass"):
        logsnr.sum().backward()


def test_making_one_draws_no_random_number_and_starts_close_to_linear():
    state = torch.get_rng_state()
    schedule = LearnedMonotone()
    assert torch.equal(torch.get_rng_state(), state)
    assert (schedule.logsnr(T) - LearnedLinear().logsnr(T)).abs().max() < 1.0


def test_a_network_without_units_is_refused():
    with pytest.raises(UserError, match="at least one hidden unit"):
        LearnedMonotone(hidden=0)
