"""Sampling: from the base through the inverse, every level's latents scaled by the temperature."""

from functools import partial

import pytest
import torch
from torch import nn

from lightning_gen.errors import UserError
from lightning_gen.flow.architectures import Glow
from lightning_gen.flow.bases import StandardLogistic, StandardNormal
from lightning_gen.flow.bijections import Elementwise, RationalQuadraticSpline
from lightning_gen.flow.dequantization import UniformDequantization
from lightning_gen.flow.flow_model import FlowModel
from lightning_gen.flow.samplers import LatentSampler
from lightning_gen.networks.plain_conv import ConvNet
from lightning_gen.random_source import IndexedSource

SHAPE = (1, 8, 8)
NUM = 40


def rng(num=NUM, start=0):
    return IndexedSource(0, range(start, start + num))


@pytest.fixture
def glow(shaken):
    """Of real images, at three levels, so that latents can be read off its samples."""
    torch.manual_seed(0)
    network = partial(ConvNet, widths=(8,), activation=nn.Tanh)
    return FlowModel(shaken(Glow(SHAPE, None, network=network, levels=3, steps=1), 0.1).double(), StandardNormal())


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.1, 0.0])
def test_a_temperature_scales_the_latents_of_every_level(glow, temperature):
    with torch.no_grad():
        x = LatentSampler(temperature)(glow, NUM, None, rng())
        z = glow.flow(x.double())[0]
    expected = temperature * StandardNormal().sample(NUM, 64, rng())
    assert x.shape == (NUM, *SHAPE)
    torch.testing.assert_close(z.float(), expected, atol=1e-5, rtol=0)
    assert ((x - x[0]).abs().max() == 0) == (temperature == 0)


def test_a_sample_does_not_depend_on_its_batch(glow):
    with torch.no_grad():
        whole, part = LatentSampler()(glow, NUM, None, rng()), LatentSampler()(glow, 7, None, rng(7, 20))
    torch.testing.assert_close(whole[20:27], part)


@pytest.mark.parametrize("base", [StandardNormal(), StandardLogistic()], ids=lambda b: type(b).__name__)
def test_samples_are_what_the_density_says(base, shaken, kolmogorov_smirnov):
    """Against the flow's own density, integrated."""
    torch.manual_seed(0)
    flow = shaken(Elementwise((1,), transform=RationalQuadraticSpline()), 1.0).double()
    model, step = FlowModel(flow, base), 0.005
    axis = torch.arange(-20, 20, step, dtype=torch.float64)
    with torch.no_grad():
        p = sum(model.density(axis[:, None] + step / 2, None).values()).exp()
        x = LatentSampler()(model, 10_000, None, rng(10_000))[:, 0].double()
    below = torch.cat([torch.zeros(1, dtype=torch.float64), (p * step).cumsum(0)])
    index = ((x - axis[0]) / step).floor().long()
    assert kolmogorov_smirnov(below[index] + p[index] * (x - axis[index])) < 1.95


def test_samples_of_integers_are_as_frequent_as_their_probabilities(shaken):
    """Those beside the cube go to its sides."""
    dequantization = UniformDequantization()
    dequantization.bind((1,), 4)
    model = FlowModel(shaken(Elementwise((1,)), 0.3), StandardNormal(), dequantization)
    with torch.no_grad():
        x = LatentSampler()(model, 20_000, None, rng(20_000))
        edges = model.flow(torch.tensor([[0.25], [0.5], [0.75]]))[0][:, 0].double()
    assert x.dtype == torch.uint8
    cdf = torch.special.ndtr(edges)
    expected = torch.cat([cdf[:1], cdf.diff(), 1 - cdf[-1:]])
    found = torch.bincount(x.flatten().long(), minlength=4).double() / len(x)
    error = (expected * (1 - expected) / len(x)).sqrt()
    assert ((found - expected).abs() < 4 * error).all()


def test_what_has_no_meaning_is_refused():
    for temperature in (-0.5, float("nan"), float("inf")):
        with pytest.raises(UserError, match=f"temperature is a number from 0 upwards, not {temperature}"):
            LatentSampler(temperature)
    assert LatentSampler.nfe == 1
