"""Truncation, shifts and zero terminal SNR, against what they say they do to the schedule inside."""

import math

import pytest
import torch

from lightning_gen.diffusion import VariancePreserving
from lightning_gen.diffusion.schedules import (
    Cosine,
    DiscreteLinearBeta,
    FlowMatching,
    Karras,
    LearnedLinear,
    LinearBeta,
    LinearLogSNR,
    Shifted,
    Truncated,
    ZeroTerminal,
)
from lightning_gen.errors import UserError

T = torch.linspace(0, 1, 101, dtype=torch.float64)


def test_truncating_is_having_had_narrower_ends():
    cut = Truncated(Cosine(logsnr_min=-15.0, logsnr_max=15.0), -7.0, 6.0)
    torch.testing.assert_close(cut.logsnr(T), Cosine(logsnr_min=-7.0, logsnr_max=6.0).logsnr(T), rtol=1e-9, atol=1e-9)


def test_truncating_keeps_the_shape_in_between():
    """Equal steps of t are equal steps of the inner one's t: nothing is clipped, no time is spent standing still."""
    inner = Karras()
    passed = inner.time(Truncated(inner, -5.0, 3.0).logsnr(T)).diff()
    torch.testing.assert_close(passed, passed.mean().expand(100), rtol=1e-8, atol=0)


def test_a_shift_is_flow_matchings():
    """Esser et al.'s shift of time by s is -2 log s in log-SNR, once the ends are those of the unshifted one."""
    s = 3.0
    shifted = Shifted(FlowMatching(logsnr_min=-10 + 2 * math.log(s), logsnr_max=10 + 2 * math.log(s)), -2 * math.log(s))
    torch.testing.assert_close(shifted.logsnr(T), FlowMatching(shift=s).logsnr(T), rtol=1e-9, atol=1e-9)


def test_resolution_shifts_as_averaging_pixels_does():
    """At twice the side four pixels average to one, with a quarter of the noise: SNR there as at the base without shift."""
    base, twice = Cosine(), Shifted(Cosine(), resolution=64, base=32)
    torch.testing.assert_close(twice.logsnr(T) + math.log(4), base.logsnr(T))
    assert (twice.logsnr_min, twice.logsnr_max) == pytest.approx((-10 - math.log(4), 10 - math.log(4)))


@pytest.mark.parametrize(
    "make", [LinearBeta, Cosine, lambda: LinearLogSNR(-3.0, 12.0), lambda: DiscreteLinearBeta(1000)]
)
def test_zero_terminal_stretches_alpha_from_its_top_to_nothing(make):
    """Algorithm 1 of Lin et al. 2024: sqrt(alpha_bar) less its last value, scaled back to its first."""
    inner = make()
    alpha = torch.sigmoid(inner.logsnr(T)).sqrt()
    expected = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    ours = VariancePreserving().at(ZeroTerminal(inner), T)
    torch.testing.assert_close(ours.alpha, expected, rtol=0, atol=3e-9)
    torch.testing.assert_close(ours.alpha**2 + ours.sigma**2, torch.ones_like(T))
    assert ours.logsnr[0].item() == pytest.approx(inner.logsnr_max, abs=1e-9)
    eps = torch.tensor(0.7)
    x_1 = VariancePreserving().at(ZeroTerminal(inner), torch.ones(())).diffuse(torch.tensor(1.0), eps)
    assert torch.equal(x_1, eps)  # in float32 nothing of the data is left


def test_zero_terminal_agrees_with_diffusers():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing").alphas_cumprod.double()
    t = torch.linspace(0, 1, 1000, dtype=torch.float64)
    ours = torch.sigmoid(ZeroTerminal(DiscreteLinearBeta()).logsnr(t))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_zero_terminal_keeps_sigma_exact_near_the_data():
    """At log-SNR 30 sigma^2 is 1e-13, which 1 - alpha^2 would lose."""
    schedule = ZeroTerminal(LinearLogSNR(-10.0, 30.0))
    torch.testing.assert_close(schedule.time(schedule.logsnr(T)), T, rtol=0, atol=1e-10)
    logsnr = schedule.logsnr(T[:40])  # far above the stretch: alpha - 1 is stretched by 1 / (1 - alpha(1))
    inner = LinearLogSNR(-10.0, 30.0).logsnr(T[:40])
    gain = 1 / (1 - math.sqrt(1 / (1 + math.exp(10))))
    lost = (torch.sigmoid(-logsnr) - math.exp(-30)) / (torch.sigmoid(-inner) - math.exp(-30))
    torch.testing.assert_close(lost[1:], torch.full((39,), gain, dtype=torch.float64), rtol=1e-5, atol=0)


def test_wrappers_follow_their_schedule_to_a_device():
    schedule = Truncated(Shifted(DiscreteLinearBeta(), 1.0), -8.0, 8.0).to("meta")
    assert schedule.logsnr(T.to("meta")).device.type == "meta"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Truncated(Cosine(), -12.0, 5.0), "Truncated reaches log-SNR -10 to 10, not the -12.0 to 5.0"),
        (lambda: Truncated(Cosine(), 5.0, -5.0), "logsnr_min < logsnr_max"),
        (lambda: Truncated(LearnedLinear(), -5.0, 5.0), "takes no learned schedule"),
        (lambda: Shifted(LearnedLinear(), 1.0), "takes no learned schedule"),
        (lambda: ZeroTerminal(LearnedLinear()), "takes no learned schedule"),
        (lambda: Shifted(Cosine()), "either a shift in nats or a resolution"),
        (lambda: Shifted(Cosine(), shift=1.0, resolution=64), "either a shift in nats or a resolution"),
        (lambda: Shifted(Cosine(), resolution=0), "must be positive"),
        (lambda: Shifted(Cosine(), shift=math.nan), "must be finite"),
        (lambda: ZeroTerminal(Cosine(), logsnr_min=-9.0), "between -60 and its schedule's -10, got -9"),
        (lambda: ZeroTerminal(Cosine(), logsnr_min=-100.0), "between -60 and its schedule's -10"),
    ],
)
def test_wrappings_that_cannot_be_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
