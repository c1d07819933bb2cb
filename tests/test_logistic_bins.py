"""Laws of the rounded logistic: it is a distribution, exact in the tails, with finite gradients everywhere."""

import math

import pytest
import torch

from lightning_gen.logistic_bins import STD_TO_SCALE, LogisticBins

LOCATIONS = [-1.0, 0.0, 0.9, 1.0, 1.7]


def grid(dtype, log_scales, levels=256):
    """Bins at all locations and log-scales, [5, S, 1], and the levels [L]."""
    location = torch.tensor(LOCATIONS, dtype=dtype).view(-1, 1, 1)
    log_scale = torch.as_tensor(log_scales, dtype=dtype).view(1, -1, 1).expand(len(LOCATIONS), -1, 1)
    return LogisticBins.of(location.expand_as(log_scale), log_scale, levels), torch.arange(levels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [2, 3, 256])
def test_the_bins_sum_to_one(dtype, levels):
    bins, x = grid(dtype, [-12.0, -7.0, -5.0, -3.0, -1.0, 0.0, 2.0], levels)
    log_prob = bins.log_prob(x)
    assert log_prob.dtype == dtype
    assert (log_prob.double().exp().sum(-1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0])
def test_a_bin_is_a_difference_of_distribution_functions(log_scale):
    """Against scipy, where float64 can take that difference: the half widths are 1 / (L - 1) around 2 l / (L - 1) - 1."""
    logistic = pytest.importorskip("scipy.stats").logistic
    bins, x = grid(torch.float64, [log_scale])
    edges = (torch.arange(257, dtype=torch.float64) * 2 - 1) / 255 - 1
    edges[0], edges[-1] = -math.inf, math.inf
    for i, location in enumerate(LOCATIONS):
        cdf = torch.as_tensor(logistic(location, math.exp(log_scale)).cdf(edges.numpy()))
        torch.testing.assert_close(bins.log_prob(x)[i, 0].exp(), cdf.diff(), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_tails_keep_their_digits(dtype):
    """Far out the mass between a and b is e^-a - e^-b, e^-2000 of which no distribution function knows."""
    levels, scale = 256, 1e-3
    bins = LogisticBins.of(torch.tensor(-1.0, dtype=dtype), torch.tensor(math.log(scale), dtype=dtype), levels)
    steepness = 2 / 255 / scale
    x = torch.tensor([100, 254, 255])
    closed = -(x - 0.5) * steepness + math.log(-math.expm1(-steepness))
    closed[-1] = -254.5 * steepness
    torch.testing.assert_close(bins.log_prob(x), closed.to(dtype), rtol=1e-5, atol=0)
    assert closed[-1] < -1900
    # and mirrored onto itself
    mirrored = LogisticBins.of(torch.tensor(1.0, dtype=dtype), torch.tensor(math.log(scale), dtype=dtype), levels)
    torch.testing.assert_close(mirrored.log_prob(255 - x), bins.log_prob(x), rtol=1e-5, atol=0)


@pytest.mark.parametrize("log_scale", [-30.0, math.log(1e-3), 0.0, 2.0, 30.0])
def test_gradients_are_finite_and_point_to_the_data(log_scale):
    location = torch.tensor(LOCATIONS).unsqueeze(1).repeat(1, 256).requires_grad_()
    scale = torch.full((5, 256), log_scale, requires_grad=True)
    log_prob = LogisticBins.of(location, scale, 256).log_prob(torch.arange(256))
    log_prob.sum().backward()
    assert log_prob.isfinite().all() and location.grad.isfinite().all() and scale.grad.isfinite().all()
    towards = torch.linspace(-1, 1, 256) - location.detach()
    far = towards.abs() > max(0.05, 20 * math.exp(log_scale))
    far[:, [0, -1]] = False  # an open bin also has what lies beyond it
    assert (location.grad * towards > 0)[far].all()
    assert (scale.grad > 0)[far].all()  # too sure of itself


def test_gradients_are_those_of_differences():
    location, scale = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([0.2, -1.1], [-1.0, -2.0]))
    x = torch.tensor([[0, 1], [3, 4], [2, 2]])
    assert torch.autograd.gradcheck(lambda m, s: LogisticBins.of(m, s, 5).log_prob(x), (location, scale))


@pytest.mark.parametrize("levels", [2, 3, 40])
def test_mode_mean_and_quantiles_are_those_of_the_bins(levels):
    bins, x = grid(torch.float64, [-7.0, -3.0, -1.0, 0.0, 2.0], levels)
    prob = bins.log_prob(x).exp()
    assert torch.equal(prob.gather(-1, bins.mode().long()), prob.amax(-1, keepdim=True))
    torch.testing.assert_close(bins.mean(), (prob * x).sum(-1, keepdim=True), rtol=1e-9, atol=1e-9)
    upper = prob.cumsum(-1)
    for u in torch.tensor([0.0, 1e-6, 0.3, 0.5, 0.99, 1 - 1e-6], dtype=torch.float64):
        level = bins.quantile(u).long()
        assert (upper.gather(-1, level) >= u - 1e-9).all()
        assert ((upper - prob).gather(-1, level) <= u + 1e-9).all()


def test_the_scale_of_a_standard_deviation():
    u = (torch.arange(200000, dtype=torch.float64) + 0.5) / 200000
    assert u.logit().std().item() * STD_TO_SCALE == pytest.approx(1, abs=1e-3)
