"""Bits of greys: exact thresholds, and draws whose mean is the grey."""

import pytest
import torch

from datamodules.binarization import Dynamic, Static, Threshold
from lightning_gen.errors import UserError
from lightning_gen.random_source import GeneratorSource

GREYS = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("at, first", [(0.5, 128), (0.2, 51), (1.0, 255), (1 / 255, 1), (0.1, 26), (254 / 255, 254)])
def test_a_threshold_is_exact(at, first):
    bits = Threshold(at).fixed(GREYS.view(1, 16, 16), torch.tensor([0]), "train").flatten()
    assert bits.dtype == torch.uint8
    assert torch.equal(bits, (torch.arange(256) >= first).to(torch.uint8))


@pytest.mark.parametrize("at", [0, -0.5, 1.01, float("nan")])
def test_a_threshold_that_makes_all_images_alike_is_refused(at):
    with pytest.raises(UserError, match="must be above 0 and at most 1"):
        Threshold(at)


def test_the_mean_of_fresh_bits_is_the_grey():
    rng, draws = GeneratorSource(0), 4000
    mean = sum(Dynamic().draw(GREYS.view(1, -1), rng).double() for _ in range(draws)).flatten() / draws
    grey = torch.arange(256).double() / 255
    assert mean[0] == 0 and mean[255] == 1
    assert ((mean - grey)[1:255] / (grey * (1 - grey) / draws)[1:255].sqrt()).abs().max() < 4.5
    assert abs((mean - grey).mean()) < 5 * 0.41 / (256 * draws) ** 0.5


@pytest.mark.parametrize("kind", [Static, Dynamic])
def test_fixed_bits_are_of_the_seed_the_part_and_the_image_alone(kind):
    x = GREYS.repeat(200, 1)
    index = torch.arange(200)
    bits = kind(3).fixed(x, index, "train")
    torch.manual_seed(7)
    some = torch.tensor([130, 4, 77])
    assert torch.equal(kind(3).fixed(x[some], some, "train"), bits[some])
    assert not torch.equal(kind(4).fixed(x, index, "train"), bits)
    assert not torch.equal(kind(3).fixed(x, index, "test"), bits)
    assert not torch.equal(bits[0], bits[1])
    assert torch.equal(Static(3).fixed(x, index, "train"), bits)


def test_the_mean_of_fixed_bits_over_images_is_the_grey():
    bits = Static().fixed(GREYS.repeat(4000, 1), torch.arange(4000), "train").double().mean(0)
    grey = torch.arange(256).double() / 255
    assert bits[0] == 0 and bits[255] == 1
    assert ((bits - grey)[1:255] / (grey * (1 - grey) / 4000)[1:255].sqrt()).abs().max() < 4.5
