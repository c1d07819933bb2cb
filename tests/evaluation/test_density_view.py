"""What is shown of densities in the plane, on models whose densities can be written down."""

import math
from types import SimpleNamespace

import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.evaluation.density_view import (
    Square,
    labels_of,
    log_density,
    mean_with_error,
    mixture_bound,
    overestimates,
    portrait,
)
from lightning_gen.likelihood import Likelihood
from lightning_gen.random_source import IndexedSource

SQUARE = Square((1.0, -2.0), 3.0, 61)
DEVICE = torch.device("cpu")


def normal(x, mean, std=0.5):
    return -0.5 * (x - torch.tensor(mean)).square().sum(1) / std**2 - math.log(2 * math.pi * std**2)


class Clusters:
    """Label c says where on the first axis a Gaussian stands; its density comes with noise."""

    device, num_classes, conditional = DEVICE, 3, True

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise

    def log_likelihood(self, x, y=None, *, estimator=None, draws=1, rng=None):
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        shift = torch.stack([y.float(), torch.zeros(len(x))], 1)
        noise = sum(rng.fork("draw", k).normal((len(x),)) for k in range(draws)) / draws
        return Likelihood.from_terms(
            {"normal": normal(x - shift, (0.0, 0.0)), "noise": self.noise * noise}, "density-elbo", 2
        )


class Plain(Clusters):
    conditional = False

    def log_likelihood(self, x, y=None, **kwargs):
        assert y is None
        return super().log_likelihood(x, torch.zeros(len(x), dtype=torch.int64), **kwargs)


def test_a_square_holds_its_points_with_a_margin_and_has_them_in_the_order_of_pictures():
    x = torch.tensor([[0.0, 5.0], [4.0, 5.0], [1.0, 7.0]])
    square = Square.around(x, 3)
    assert square.limits == ((-0.5, 4.5), (3.5, 8.5))
    assert square.points().tolist()[:4] == [[-0.5, 3.5], [2.0, 3.5], [4.5, 3.5], [-0.5, 6.0]]
    assert Square.around(x, 3, reach=1.0).limits == ((1.0, 3.0), (5.0, 7.0))
    with pytest.raises(UserError, match="--range"):
        Square.around(x[:1].repeat(4, 1), 3)
    assert Square.around(x[:1], 2, reach=1.0).limits == ((-1.0, 1.0), (4.0, 6.0))


def test_the_integral_of_a_density_within_the_square_is_one_and_it_stands_where_its_mass_is():
    density = SQUARE.density(normal(SQUARE.points(), (1.5, -3.0), std=0.3))
    assert SQUARE.integral(density) == pytest.approx(1, abs=1e-6)
    across, up = SQUARE.axes
    assert SQUARE.integral(density * across) == pytest.approx(1.5, abs=1e-6)
    assert SQUARE.integral(density * up[:, None]) == pytest.approx(-3.0, abs=1e-6)
    assert SQUARE.integral(torch.ones(61, 61, dtype=torch.float64)) == pytest.approx(36)


def test_a_conditional_model_is_the_mixture_of_its_labels():
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    parts = torch.stack([normal(x, (float(c), 0.0)).exp() for c in range(3)])
    found = log_density(Clusters(), x, 256, 0, 1)
    torch.testing.assert_close(found.log_prob, parts.mean(0).log().double(), atol=1e-5, rtol=0)
    assert found.kind == "density-elbo" and len(found) == 50
    alone = log_density(Plain(), x, 256, 0, 1)
    torch.testing.assert_close(alone.log_prob, parts[0].log().double(), atol=1e-5, rtol=0)


class Apart(Clusters):
    """Under each label there is noise of its own."""

    def log_likelihood(self, x, y=None, *, estimator=None, draws=1, rng=None):
        exact = super().log_likelihood(x, y, rng=rng).terms["normal"]
        noise = sum(rng.fork("draw", k).normal((len(x), 3)) for k in range(draws)) / draws
        return Likelihood(exact + self.noise * noise[torch.arange(len(x)), y], "density-elbo", 2)


@pytest.mark.parametrize("draws", [1, 2, 16])
def test_the_mixture_of_noisy_bounds_is_a_bound_in_the_mean(draws):
    """The log-mean-exp of them is not: at one draw it is 0.4 nats too high."""
    x = 0.5 * torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, 0.0])
    exact = torch.stack([normal(x, (float(c), 0.0)).double() for c in range(3)]).logsumexp(0) - math.log(3)
    excess = log_density(Apart(1.5), x, 4000, 0, draws).log_prob - exact
    error = excess.std() / math.sqrt(len(x))
    assert excess.mean() < 3 * error
    assert excess.mean() > -1.5 / draws  # and near the logarithm


def test_the_bound_of_a_mixture_without_noise_is_its_logarithm():
    log_p = torch.tensor([[0.0, -1.0, -800.0], [-2.0, -1.0, 0.0], [-3.0, -math.inf, -math.inf]], dtype=torch.float64)
    torch.testing.assert_close(mixture_bound(log_p, log_p), log_p.logsumexp(0) - math.log(3))


def test_a_density_with_noise_is_too_high_but_for_an_importance_weighted_one():
    class Weighted(Clusters):
        def log_likelihood(self, x, y=None, **kwargs):
            return Likelihood(super().log_likelihood(x, y, **kwargs).log_prob, "density-iwae-5", 2)

    x = torch.zeros(100, 2)
    found = [overestimates(model, x, 0, 2) for model in (Clusters(), Clusters(0.1), Plain(), Plain(0.1), Weighted(0.1))]
    assert found == [False, True, False, True, False]


def test_a_model_conditional_on_more_than_labels_is_refused():
    assert labels_of(Clusters()) == [0, 1, 2] and labels_of(Plain()) == [None]
    with pytest.raises(UserError, match="conditioner"):
        labels_of(SimpleNamespace(conditional=True, num_classes=None))


def test_noise_is_keyed_by_the_point_and_averaged_over_the_draws():
    x = torch.zeros(150, 2)
    whole = log_density(Plain(1.0), x, 256, 3, 2)
    torch.testing.assert_close(log_density(Plain(1.0), x, 7, 3, 2).log_prob, whole.log_prob)
    source = IndexedSource(3, range(150)).fork("likelihood")
    noise = sum(source.fork("draw", k).normal((150,)) for k in range(2)) / 2
    torch.testing.assert_close(whole.log_prob, (normal(x, (0.0, 0.0)) + noise).double(), atol=1e-5, rtol=0)
    assert not torch.equal(log_density(Plain(1.0), x, 256, 4, 2).log_prob, whole.log_prob)


def test_progress_counts_every_point_under_every_label():
    done = []
    log_density(Clusters(), torch.zeros(10, 2), 4, 0, 1, advance=done.append)
    assert sum(done) == 30


def test_a_mean_has_its_error_and_hides_nothing():
    found = mean_with_error("nats", torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert found == {"nats": 3.0, "nats_se": pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))}
    assert mean_with_error("nats", torch.tensor([2.0])) == {"nats": 2.0}
    with pytest.raises(UserError, match="nats of 2 of 4 examples .* number 1"):
        mean_with_error("nats", torch.tensor([1.0, math.inf, 3.0, math.nan]))


def test_panels_share_the_square_and_densities_the_scale_of_the_first():
    first = SQUARE.density(normal(SQUARE.points(), (1.0, -2.0)))
    higher, points = 2 * first, torch.tensor([[0.5, -2.0], [2.0, -1.0]])
    figure = portrait(SQUARE, {"data": first, "model": higher}, {"samples": points})
    data, model, samples, bar = figure.axes
    assert [axes.get_title() for axes in (data, model, samples)] == ["data", "model", "samples"]
    for axes, density in ((data, first), (model, higher)):
        (image,) = axes.images
        assert image.get_array().tolist() == density.tolist() and image.origin == "lower"
        assert image.get_clim() == (0.0, first.max().item())
    assert samples.collections[0].get_offsets().tolist() == points.tolist()
    for axes in (data, model, samples):
        assert axes.get_xlim() == pytest.approx((-2.05, 4.05)) and axes.get_ylim() == pytest.approx((-5.05, 1.05))
        assert axes.get_aspect() == 1
    assert model.images[0].get_extent() == pytest.approx([-2.05, 4.05, -5.05, 1.05])
    assert bar.get_ylabel() == "density" and bar._colorbar.extend == "max"
    assert portrait(SQUARE, {"data": first, "model": first / 2}, {"s": points}).axes[-1]._colorbar.extend == "neither"
