"""A flow with what stands before and behind it: densities that integrate to one, and data that come back."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gen.flow.architectures import NICE, Glow, RealNVP, Steps
from lightning_gen.flow.bases import StandardLogistic, StandardNormal
from lightning_gen.flow.bijections import (
    Affine,
    Chain,
    Elementwise,
    Logit,
    LUConv1x1,
    RationalQuadraticSpline,
)
from lightning_gen.flow.dequantization import UniformDequantization, VariationalDequantization
from lightning_gen.flow.flow_model import FlowModel
from lightning_gen.networks import PlainMLP
from lightning_gen.networks.plain_conv import ConvNet
from lightning_gen.random_source import IndexedSource

MLP = partial(PlainMLP, widths=[16])
CONV = partial(ConvNet, widths=(8, 8), activation=nn.Tanh)
SHAPE = (1, 8, 8)
FLOWS = {
    "Glow": partial(Glow, network=CONV, levels=2, steps=2),
    "RealNVP": partial(RealNVP, network=CONV, levels=2),
    "NICE": partial(NICE, network=MLP),
}


def integers(num, shape=SHAPE, levels=17, seed=0):
    x = torch.randint(levels, (num, *shape), generator=torch.Generator().manual_seed(seed))
    return x.to(torch.uint8) if levels <= 256 else x


def of_integers(flow, shape=SHAPE, levels=17, base=None, logit=None, dequantization=None):
    """flow: made, or what makes it."""
    torch.manual_seed(0)
    dequantization = dequantization or UniformDequantization()
    dequantization.bind(shape, levels)
    made = flow if isinstance(flow, nn.Module) else flow(shape, None)
    return FlowModel(
        made, base or StandardNormal(), dequantization, None if logit is None else Logit(shape, alpha=logit)
    )


# ---- what noise costs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 17, 256, 1000])
def test_every_image_costs_log2_of_its_levels_where_the_model_is_uniform(levels):
    """The logit of uniform noise is logistic, so that the density of the cube is 1: exactly, for whichever image and draw."""
    model = of_integers(Chain(SHAPE), levels=levels, base=StandardLogistic(), logit=0.0)
    terms = model.terms(integers(50, levels=levels), None, IndexedSource(0, range(50)))
    bits = -sum(term.double() for term in terms.values()) / (64 * math.log(2))
    torch.testing.assert_close(bits, torch.full((50,), math.log2(levels), dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_a_normal_density_on_the_cube_costs_its_mean(levels):
    """-E log N(v; 0, 1) + log L = (E v^2 + log 2 pi) / 2 + log L nats a pixel, with E v^2 = ((x + 1/2)^2 + 1/12) / L^2."""
    model = of_integers(Chain((levels,)), (levels,), levels)
    num = 4_000
    x = torch.arange(levels).expand(num, -1)
    found = sum(term.double() for term in model.terms(x, None, IndexedSource(0, range(num))).values()) / levels
    square = ((torch.arange(levels).double() + 0.5).square() + 1 / 12).mean() / levels**2
    expected = -0.5 * (float(square) + math.log(2 * math.pi)) - math.log(levels)
    assert float(found.mean()) == pytest.approx(expected, abs=4 * float(found.std()) / num**0.5)


# ---- one pixel: everything is known ----------------------------------------------------------------------------------

LEVELS = 8
NODES, WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(64))


def one_pixel(transform, alpha, shaken, seed):
    flow = shaken(Elementwise((1,), transform=transform), 0.7, seed).double()
    return of_integers(flow, (1,), LEVELS, logit=alpha)


def probabilities(model, parts):
    """P(0), ..., P(L - 1): the density integrated over each bin, by Gauss-Legendre in each of its parts. float64."""
    u = ((torch.arange(parts)[:, None] + (NODES + 1) / 2) / parts).flatten()
    v = (torch.arange(LEVELS)[:, None] + u).flatten()[:, None] / LEVELS
    with torch.no_grad():
        p = sum(model.density(v, None).values()).exp()
    return (p.unflatten(0, (LEVELS, parts, len(NODES))) * WEIGHTS / 2).sum(2).mean(1) / LEVELS


def one_pixel_mass_beside_the_cube(model):
    """Phi(f(logit alpha)) + Phi(-f(logit(1 - alpha))): latents whose decoded pixel is below 0 or above 1."""
    with torch.no_grad():
        v, _ = model.logit(torch.tensor([[0.0], [1.0]], dtype=torch.float64))
        ends, _ = model.flow(v)
    return float(torch.special.ndtr(ends[0]) + torch.special.ndtr(-ends[1]))


@pytest.mark.parametrize("alpha", [0.0, 0.05])
@pytest.mark.parametrize("transform", [Affine(), RationalQuadraticSpline()], ids=["affine", "spline"])
@pytest.mark.parametrize("seed", range(3))
def test_a_one_pixel_flow_integrates_to_one_over_all_bins(transform, alpha, seed, shaken):
    """But for the mass that alpha leaves on both sides of the cube, pixels whose logit lies beyond that of alpha."""
    model = one_pixel(transform, alpha, shaken, seed)
    beside = one_pixel_mass_beside_the_cube(model)
    assert (beside == 0) == (alpha == 0)
    assert float(probabilities(model, 200).sum()) + beside == pytest.approx(1, abs=1e-4)


# ---- the plane --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [StandardNormal(), StandardLogistic()], ids=lambda b: type(b).__name__)
@pytest.mark.parametrize("transform", [Affine(), RationalQuadraticSpline()], ids=["affine", "spline"])
def test_a_density_of_the_plane_integrates_to_one_on_a_grid(transform, base, shaken):
    """The midpoint rule; the flow stretches what a logistic base has far out."""
    torch.manual_seed(0)
    flow = shaken(Steps((2,), None, network=MLP, transform=transform, steps=3, mixing=LUConv1x1), 0.1)
    model, spacing = FlowModel(flow, base), 0.08
    axis = torch.arange(-24, 24, spacing) + spacing / 2
    with torch.no_grad():
        mass = 0.0
        for part in torch.cartesian_prod(axis, axis).split(2**16):
            mass += float(sum(model.terms(part, None, IndexedSource(0, range(1))).values()).double().exp().sum())
    assert mass * spacing**2 == pytest.approx(1, abs=1e-3)


# ---- terms and latents ------------------------------------------------------------------------------------------------


def test_terms_are_the_density_of_the_noisy_floats(shaken):
    """By the Jacobian of all that turns floats into latents, in float64."""
    shape = (1, 4, 4)
    model = of_integers(shaken(Glow(shape, None, network=CONV, levels=2, steps=1), 0.1).double(), shape, logit=0.05)
    v = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def latents(v):
        return model.flow(model.logit(v)[0])[0].flatten()

    log_det = torch.linalg.slogdet(torch.autograd.functional.jacobian(latents, v).reshape(16, 16)).logabsdet
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(latents(v)).sum()
    terms = model.density(v, None)
    assert list(terms) == ["logit", "log_det", "base"]
    torch.testing.assert_close(sum(terms.values())[0], log_det + normal)
    torch.testing.assert_close(terms["base"][0], normal)


def test_terms_are_named_and_the_kind_is_that_of_the_noise():
    x, rng = integers(3), partial(IndexedSource, 0, range(3))
    plain = of_integers(FLOWS["Glow"])
    assert list(plain.terms(x, None, rng())) == ["dequantization", "log_det", "base"] and plain.kind == "dequantized"
    other = of_integers(FLOWS["Glow"], logit=0.05, dequantization=VariationalDequantization(CONV))
    assert list(other.terms(x, None, rng())) == ["dequantization", "logit", "log_det", "base"] and other.kind == "elbo"
    points = FlowModel(Chain((2,)), StandardNormal())
    assert list(points.terms(torch.zeros(3, 2), None, rng())) == ["log_det", "base"] and points.kind == "density"


@pytest.mark.parametrize("logit", [None, 0.05])
@pytest.mark.parametrize("name", FLOWS)
def test_integers_come_back_from_all_their_latents(name, logit, shaken):
    model, x = of_integers(FLOWS[name], logit=logit), integers(20)
    shaken(model.flow, 0.05)
    with torch.no_grad():
        for rng in (None, IndexedSource(0, range(20))):
            z = model.encode(x, None, rng)
            assert z.shape == (20, 64) == (20, model.latents)
            assert torch.equal(model.to_data(model.decode(z, None)), x)
            assert not torch.isclose(model.decode(z, None), model.decode(z + 0.5, None)).any()


@pytest.mark.parametrize("levels", [256, 1000])
def test_deep_integers_come_back_too(levels, shaken):
    model, x = of_integers(FLOWS["Glow"], levels=levels, logit=0.05), integers(20, levels=levels)
    shaken(model.flow, 0.05)
    with torch.no_grad():
        assert torch.equal(model.to_data(model.decode(model.encode(x, None, None), None)), x)


def test_real_vectors_come_back(shaken):
    torch.manual_seed(0)
    model = FlowModel(shaken(Steps((6,), None, network=MLP, steps=4, mixing=LUConv1x1), 0.1), StandardNormal())
    x = 2 * torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model.to_data(model.decode(model.encode(x, None, None), None)), x, atol=1e-4, rtol=0)


def test_latents_of_data_are_distributed_as_the_base_after_the_start(shaken):
    """`initialize` has each normalized channel of that batch at mean 0 and variance 1, so a batch costs less."""
    model = of_integers(FLOWS["Glow"], logit=0.05)
    x = (integers(64) // 4).to(torch.uint8)
    rng = partial(IndexedSource, 0, range(64))
    with torch.no_grad():
        before = sum(model.terms(x, None, rng()).values()).mean()
        model.initialize(x, None, rng())
        after = sum(model.terms(x, None, rng()).values()).mean()
        z = model.encode(x, None, rng())
    assert after > before + 10
    assert float(z.mean()) == pytest.approx(0, abs=0.02) and float(z.std()) == pytest.approx(1, abs=0.02)
