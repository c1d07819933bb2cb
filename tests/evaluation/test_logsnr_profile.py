"""The curve over log-SNR is the diffusion term, spread out; of Gaussian data it is known in closed form."""

import math
import warnings

import pytest
import torch

from lightning_gen.diffusion import Cosine, GaussianDenoiser, LinearLogSNR, VariancePreserving, VariationalBound
from lightning_gen.diffusion.decoders import VectorDecoder
from lightning_gen.evaluation.logsnr_profile import plot, profile_curve
from lightning_gen.likelihood import Profile
from lightning_gen.random_source import GeneratorSource

S = torch.tensor([0.3, 1.0, 1.7], dtype=torch.float64)  # standard deviations of Gaussian data
ENDS = {"logsnr_min": -8.0, "logsnr_max": 8.0}


def bound(num, draws, steps=None, schedule=Cosine, seed=0):
    """The bound of Gaussian data under the denoiser that knows their law."""
    x = (torch.randn(num, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * S).float()
    denoiser = GaussianDenoiser(torch.zeros(3, dtype=torch.float64), torch.diag(S**2), VariancePreserving())
    source = GeneratorSource(seed + 1000)
    return VariationalBound(steps)(denoiser, schedule(**ENDS), VectorDecoder(), x, None, draws, source)


def mean_density(edges):
    """1/2 sum over dimensions of SNR s^2 / (1 + SNR s^2), averaged over each bin: its integral is log(1 + SNR s^2)."""
    integral = 0.5 * torch.log1p(edges.exp()[:, None] * S**2).sum(1)
    return integral.diff() / edges.diff()


@pytest.mark.parametrize("schedule", [Cosine, LinearLogSNR])
@pytest.mark.parametrize("draws", [1, 8])
def test_gaussian_data_lie_on_their_closed_form(schedule, draws):
    curve = profile_curve(bound(12000 // draws, draws, schedule=schedule).profile)
    expected = mean_density(curve.edges)
    assert (curve.density - expected).abs().div(curve.se).max() < 4
    assert (curve.se / expected).max() < 0.35 and curve.se[-1] / expected[-1] < 0.06  # a band that says something


def test_the_steps_of_a_discrete_bound_lie_on_theirs():
    steps = 10
    curve = profile_curve(bound(3000, 5, steps, LinearLogSNR).profile, bins=2 * steps)
    snr = curve.edges[:-1:2].exp()[:, None]  # each step asks at its noisy end
    width = 16 / steps
    expected = 0.5 * math.expm1(width) / width * (snr * S**2 / (1 + snr * S**2)).sum(1)
    assert (curve.density[::2] - expected).abs().div(curve.se[::2]).max() < 4
    torch.testing.assert_close(curve.density[1::2], curve.density[::2], rtol=1e-4, atol=0)  # constant over a step


@pytest.mark.parametrize(("steps", "draws"), [(None, 1), (None, 5), (4, 4), (7, 3), (200, 6)])
@pytest.mark.parametrize("bins", [1, 3, 40])
def test_the_bins_add_up_to_the_diffusion_term(steps, draws, bins):
    measured = bound(17, draws, steps)
    curve = profile_curve(measured.profile, bins)
    assert curve.nats() == pytest.approx(-measured.terms["diffusion"].mean().item(), rel=1e-6)
    weight = measured.profile.weight.double().mean().item()  # on average, the whole span
    assert curve.drawn.sum().item() == pytest.approx(weight, rel=1e-6)
    torch.testing.assert_close(curve.edges[[0, -1]], torch.tensor([-8.0, 8.0], dtype=torch.float64))


def test_the_area_is_the_diffusion_term():
    measured = bound(4000, 4)
    curve = profile_curve(measured.profile)
    area = (curve.density * curve.edges.diff()).sum().item()
    error = (curve.se * curve.edges.diff()).square().sum().sqrt().item()
    assert area == pytest.approx(-measured.terms["diffusion"].mean().item(), abs=4 * error)
    torch.testing.assert_close(curve.drawn, curve.edges.diff(), rtol=0.25, atol=0)  # 400 draws in each


def test_steps_fill_the_bins_they_cover_and_no_others():
    one_step = [torch.tensor([[value]]) for value in (-1.0, 2.0, 10.0, 3.0)]  # logsnr, density, weight, width
    curve = profile_curve(Profile(*one_step, ends=(-4.0, 4.0)), bins=8)
    expected = torch.tensor([0, 0, 0, 10 / 3, 10 / 3, 10 / 3, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(curve.drawn, expected)
    assert torch.equal(curve.density.isnan(), expected == 0) and curve.nats() == pytest.approx(20)


def test_points_on_the_edges_are_counted_once():
    logsnr = torch.tensor([[-4.0, -2.0, 0.0, 4.0]])
    points = Profile(logsnr, torch.ones(1, 4), torch.full((1, 4), 8.0), torch.zeros(1, 4), (-4.0, 4.0))
    assert profile_curve(points, bins=4).drawn.tolist() == [
        2.0,
        2.0,
        2.0,
        2.0,
    ]  # a bin has its lower edge, the last both


def test_the_error_is_over_examples_and_not_over_draws():
    measured = bound(50, 30)
    term = measured.terms["diffusion"]
    curve = profile_curve(measured.profile, bins=1)
    assert 16 * curve.se.item() == pytest.approx((term.std() / math.sqrt(50)).item(), rel=1e-5)
    # thirty copies of each draw say nothing new
    p = measured.profile
    copies = Profile(*(c.repeat_interleave(30, 1) for c in (p.logsnr, p.density, p.weight, p.width)), ends=p.ends)
    torch.testing.assert_close(profile_curve(copies).se, profile_curve(p).se)


def test_the_error_is_what_repetitions_scatter_by():
    curves = [profile_curve(bound(400, 3, seed=seed).profile, bins=10) for seed in range(60)]
    scatter = torch.stack([curve.density for curve in curves]).std(0)
    claimed = torch.stack([curve.se for curve in curves]).mean(0)
    assert (scatter / claimed).log().mean().abs() < 0.12  # 10 bins of 60: 0.03 each way
    assert (scatter / claimed).log().abs().max() < 0.4


def test_one_example_has_a_curve_without_an_error():
    measured = bound(1, 3)
    curve = profile_curve(measured.profile)
    assert curve.density.isfinite().sum() == 3 and curve.se.isnan().all()
    assert curve.nats() == pytest.approx(-measured.terms["diffusion"].item(), rel=1e-6)


def test_the_table_holds_the_curve_in_both_units():
    curve = profile_curve(bound(100, 8).profile, bins=4)
    header, rows = curve.table(num_dims=3)
    table = {name: torch.tensor(column, dtype=torch.float64) for name, column in zip(header, zip(*rows))}
    assert torch.equal(table["logsnr_low"][1:], table["logsnr_high"][:-1])
    assert torch.equal(table["nats_per_logsnr"], curve.density) and torch.equal(table["nats_per_logsnr_se"], curve.se)
    for end in ("", "_se"):
        bits = table[f"bits_per_dim_per_logsnr{end}"] * 3 * math.log(2)
        torch.testing.assert_close(bits, table[f"nats_per_logsnr{end}"])
    assert curve.table()[0] == header[:4] and curve.table()[1] == [row[:4] for row in rows]


@pytest.mark.parametrize("num_dims", [None, 3])
def test_curves_are_drawn(tmp_path, num_dims):
    image = pytest.importorskip("PIL.Image")
    curves = {f"model {draws}": profile_curve(bound(num, draws).profile) for num, draws in ((300, 8), (1, 3))}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a curve with gaps, and one without a band, are drawn as they are
        plot(curves, tmp_path / "new" / "profile.png", num_dims)
    picture = image.open(tmp_path / "new" / "profile.png").convert("RGB")
    assert min(picture.size) > 400 and len(picture.getcolors(1 << 24)) > 50
