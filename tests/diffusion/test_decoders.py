"""Laws of the two ends: every decoder is a distribution over the data, with a network or without."""

import itertools
import math

import pytest
import torch

from lightning_gen.diffusion.decoders import (
    DiscretizedGaussian,
    LevelDecoder,
    NetworkDecoder,
    NetworkFree,
    VectorDecoder,
    log_normal_mass,
)
from lightning_gen.diffusion.parameterizations import Prediction
from lightning_gen.diffusion.paths import Linear, VarianceExploding, VariancePreserving
from lightning_gen.diffusion.reverse_variances import Analytic, FixedLarge, FixedSmall, LearnedRange
from lightning_gen.diffusion.schedules import Cosine, LinearLogSNR
from lightning_gen.errors import IncompatibleAxes, UserError


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("logsnr", [-2.0, 3.0, 7.0, 12.0])
def test_decoder_is_a_distribution_over_levels(levels, logsnr):
    """For any z the probabilities of all levels sum to one, and the decoded level is the most probable."""
    decoder = LevelDecoder(levels)
    level = VariancePreserving().at(LinearLogSNR(logsnr_max=logsnr), torch.zeros((), dtype=torch.float64))
    z = torch.randn(6, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    x = torch.arange(levels, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    for one in z:
        log_prob = decoder.log_prob(x, one.expand(levels, 1, 1, 1), level)
        assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-5)
        decoded = decoder.decode(one[None], level)
        assert log_prob[decoded.item()] >= log_prob.max() - 1e-3


@pytest.mark.parametrize("levels", [2, 17, 256, 1000])
def test_decoding_inverts_encoding(levels):
    decoder = LevelDecoder(levels)
    x = torch.arange(levels, dtype=torch.uint8 if levels <= 256 else torch.int64).reshape(-1, 1)
    x0 = decoder.encode(x)
    assert x0.min() == -1 and x0.max() == 1
    level = VariancePreserving().at(LinearLogSNR(logsnr_max=3.0), torch.zeros((), dtype=torch.float64))
    back = decoder.decode(level.alpha * x0, level)
    assert back.dtype == x.dtype
    torch.testing.assert_close(back, x)


@pytest.mark.parametrize("logsnr", [6.0, 10.0, 14.0])
def test_levels_too_far_to_count_are_left_out_and_do_not_count(logsnr):
    """Against the sum over all levels in float64, for z within the range of the data and far outside of it."""
    level = VariancePreserving().at(LinearLogSNR(logsnr_max=logsnr), torch.zeros((), dtype=torch.float64))
    z = torch.linspace(-1.6, 1.6, 512, dtype=torch.float64).reshape(-1, 1)
    x = torch.randint(256, (512, 1), generator=torch.Generator().manual_seed(1))
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)
    exponents = -0.5 * level.logsnr.exp() * (z / level.alpha - values).square()
    expected = exponents.gather(1, x)[:, 0] - exponents.logsumexp(1)
    torch.testing.assert_close(LevelDecoder(256).log_prob(x, z, level), expected, rtol=1e-9, atol=1e-9)


def test_chunks_change_nothing(monkeypatch):
    from lightning_gen.diffusion import decoders

    decoder = LevelDecoder(256)
    level = VariancePreserving().at(LinearLogSNR(), torch.zeros(9, dtype=torch.float64))
    x = torch.randint(256, (9, 3, 4, 4), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    z = decoder.encode(x) + 0.01
    whole = decoder.log_prob(x, z, level)
    monkeypatch.setattr(decoders, "_CHUNK", 48 * 2)
    torch.testing.assert_close(decoder.log_prob(x, z, level), whole)


# ---- with a network -----------------------------------------------------------------------------------------------


class Says:
    """Whatever x_t is: x0 is this, give or take that."""

    path = VariancePreserving()

    def __init__(self, mean, variance=1e-4, share=0.5):
        self.mean, self.variance, self.share = mean, variance, share

    def __call__(self, x_t, logsnr, y=None):
        like = torch.ones_like(x_t)
        return Prediction(self.mean * like, like, torch.tensor(self.variance), self.share * like)


RECONSTRUCTIONS = [NetworkFree(), NetworkDecoder(), DiscretizedGaussian()] + [
    DiscretizedGaussian(variance, steps)
    for variance in (FixedSmall(), FixedLarge(), LearnedRange(), Analytic())
    for steps in (2, 1000)
]
NAMES = [f"{type(r).__name__}-{type(getattr(r, 'variance', None)).__name__}" for r in RECONSTRUCTIONS]


def first_level(path=None, logsnr=5.0):
    path = path or VariancePreserving()
    return path.at(Cosine(logsnr_max=logsnr), torch.zeros((), dtype=torch.float64))


def of_all_levels(reconstruction, levels, mean, first):
    x = torch.arange(levels).reshape(-1, 1)
    z = (first.alpha * mean).expand(levels, 1).float()
    return reconstruction.log_prob(LevelDecoder(levels), Says(mean), x, None, z, first)


@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS, ids=NAMES)
@pytest.mark.parametrize("path", [VariancePreserving(), VarianceExploding(), Linear()], ids=lambda p: type(p).__name__)
def test_the_levels_of_a_pixel_sum_to_one(reconstruction, path):
    for levels, mean, logsnr in itertools.product((2, 4, 256), (-1.0, 0.0, 0.9, 1.0, 1.7), (2.0, 10.0)):
        log_prob = of_all_levels(reconstruction, levels, torch.tensor(mean), first_level(path, logsnr))
        assert log_prob.dtype == torch.float64 and log_prob.shape == (levels,)
        assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-5)
        assert log_prob.isfinite().all()


@pytest.mark.parametrize("reconstruction", RECONSTRUCTIONS, ids=NAMES)
def test_three_binary_pixels_sum_to_one(reconstruction):
    x = torch.tensor(list(itertools.product((0, 1), repeat=3)), dtype=torch.uint8)
    z = torch.tensor([[0.3, -0.2, 0.9]]).expand(8, 3)
    mean = torch.tensor([0.5, -0.1, 1.0])
    log_prob = reconstruction.log_prob(LevelDecoder(2), Says(mean), x, None, z, first_level(logsnr=2.0))
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("mean", [-1.0, 0.0, 0.9, 1.0])
@pytest.mark.parametrize("std", [1e-3, 1e-2, 0.3])
def test_the_bins_of_the_discretised_gaussian(mean, std):
    """Against the difference of distribution functions where float64 holds it, and mirrored onto itself everywhere."""
    first = first_level(logsnr=-2 * math.log(std))
    log_prob = of_all_levels(DiscretizedGaussian(), 256, torch.tensor(mean), first)
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-9)
    edges = (torch.arange(257, dtype=torch.float64) - 0.5) * (2 / 255) - 1
    edges[0], edges[-1] = -math.inf, math.inf
    cdf = torch.distributions.Normal(torch.tensor(mean).double(), std).cdf(edges)
    torch.testing.assert_close(log_prob.exp(), cdf.diff(), rtol=0, atol=1e-9)
    mirrored = of_all_levels(DiscretizedGaussian(), 256, -torch.tensor(mean), first)
    torch.testing.assert_close(mirrored.flip(0), log_prob, rtol=1e-9, atol=1e-9)


def test_the_mass_of_an_interval_keeps_its_digits_in_the_tails():
    """Far out Phi(-z) is phi(z) / z (1 - 1/z^2 + 3/z^4): differences of what float64 rounds to 0 or to 1."""
    z = torch.tensor([20.0, 40.0, 3000.0], dtype=torch.float64)
    tail = -0.5 * z**2 - 0.5 * math.log(2 * math.pi) - z.log() + torch.log1p(-(z**-2) + 3 * z**-4)
    for found in (
        log_normal_mass(z, z + 1),
        log_normal_mass(-z - 1, -z),
        log_normal_mass(z, torch.full_like(z, math.inf)),
    ):
        torch.testing.assert_close(found, tail, rtol=1e-6, atol=0)
    narrow = log_normal_mass(*torch.tensor([0.3, 0.3 + 1e-7], dtype=torch.float64))
    assert narrow.item() == pytest.approx(math.log(1e-7) - 0.5 * 0.3**2 - 0.5 * math.log(2 * math.pi), abs=1e-6)


def test_the_variance_of_the_step_decides_the_width():
    """From the smallest to the largest, the learned one between them at its share, the analytic one by what is not known."""
    first, mean = first_level(logsnr=4.0), torch.tensor(0.0)

    def width(reverse, **says):
        x, denoiser = torch.arange(2001).reshape(-1, 1), Says(mean, **says)
        chosen = DiscretizedGaussian(reverse, steps=20)
        mass = chosen.log_prob(LevelDecoder(2001), denoiser, x, None, torch.zeros(2001, 1), first).exp()
        return (mass * torch.linspace(-1, 1, 2001, dtype=torch.float64) ** 2).sum().sqrt().item()

    beyond = first.earlier(1 / 20)
    share = -torch.expm1(first.logsnr - beyond.logsnr).item()  # of the way to the data that the further step would go
    small, large = width(FixedSmall()), width(FixedLarge())
    assert small**2 == pytest.approx(math.exp(-float(beyond.logsnr)) * share, rel=1e-3)
    assert small < large <= math.exp(-2.0) * 1.02  # sigma_0 / alpha_0 at most, but for the scale of the step's end
    assert width(None) == pytest.approx(math.exp(-2.0), rel=1e-3)
    for way in (0.0, 0.3, 1.0):
        expected = small ** (1 - way) * large**way
        assert width(LearnedRange(), share=way) == pytest.approx(expected, rel=1e-3)
    assert width(Analytic(), variance=0.0) == pytest.approx(small, rel=1e-6)
    assert width(Analytic(), variance=1e-3) ** 2 == pytest.approx(small**2 + share**2 * 1e-3, rel=1e-3)


def test_the_network_is_asked_once_at_the_first_level_and_for_what_is_wanted():
    asked = []

    class Asked(Says):
        def __call__(self, x_t, logsnr, y=None):
            asked.append((x_t, float(logsnr), y))
            return super().__call__(x_t, logsnr, y)

    z, y, x = torch.zeros(2, 3), torch.tensor([4, 5]), torch.zeros(2, 3, dtype=torch.uint8)
    for reconstruction, calls in ((NetworkFree(), 0), (NetworkDecoder(), 1), (DiscretizedGaussian(), 1)):
        asked.clear()
        reconstruction.log_prob(LevelDecoder(4), Asked(torch.tensor(0.1)), x, y, z, first_level(logsnr=5.0))
        assert asked == [(z, pytest.approx(5.0), y)] * calls


def test_around_vectors_there_is_a_density_but_there_are_no_bins():
    first, grid = first_level(logsnr=2.0), torch.linspace(-4, 4, 801, dtype=torch.float64)[:, None]
    z = torch.zeros(801, 1)
    for reconstruction in (NetworkFree(), NetworkDecoder()):
        density = reconstruction.log_prob(VectorDecoder(), Says(torch.tensor(0.3)), grid, None, z, first).exp()
        assert density.sum().item() * 0.01 == pytest.approx(1, abs=1e-6)
    with pytest.raises(IncompatibleAxes, match="no bins"):
        DiscretizedGaussian().check(integers=False, knows=())
    with pytest.raises(UserError, match="two steps"):
        DiscretizedGaussian(steps=1)
