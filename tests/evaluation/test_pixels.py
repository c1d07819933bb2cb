import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.evaluation.pixels import to_uint8


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float64])
def test_256_levels_are_their_own_pixels(dtype):
    values = torch.arange(256).view(4, 8, 8)
    pixels = to_uint8(values.to(dtype), 256)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels.long(), values)


@pytest.mark.parametrize("levels", [2, 3, 17, 100, 1024, 65536])
def test_levels_span_black_to_white_evenly(levels):
    pixels = to_uint8(torch.arange(levels), levels).long()
    assert pixels[0] == 0
    assert pixels[-1] == 255
    steps = pixels.diff()
    assert (steps >= 0).all()
    assert steps.max() - steps.min() <= 1
    assert torch.equal(pixels + pixels.flip(0), torch.full_like(pixels, 255)) or levels % 2  # an odd middle rounds up


def test_pixel_is_the_nearest_to_the_exact_value():
    exact = torch.arange(17, dtype=torch.float64) * 255 / 16
    assert (to_uint8(torch.arange(17), 17).double() - exact).abs().max() <= 0.5


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_every_dtype_gives_the_same_pixels(dtype):
    values = torch.arange(17)
    assert torch.equal(to_uint8(values.to(dtype), 17), to_uint8(values, 17))
    assert torch.equal(to_uint8(torch.tensor([False, True]), 2), torch.tensor([0, 255], dtype=torch.uint8))


def test_floats_are_rounded_and_clamped_never_wrapped():
    x = torch.tensor([-3.0, -0.4, 0.4, 0.6, 254.6, 256.0, 300.0])
    assert to_uint8(x, 256).tolist() == [0, 0, 0, 1, 255, 255, 255]
    assert to_uint8(torch.tensor([-1, 20]), 17).tolist() == [0, 255]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_diverged_samples_are_refused(bad):
    with pytest.raises(UserError, match="NaN or infinite"):
        to_uint8(torch.tensor([0.0, bad]), 256)


@pytest.mark.parametrize("levels", [None, 1])
def test_data_without_levels_have_no_pixels(levels):
    with pytest.raises(UserError, match="levels"):
        to_uint8(torch.zeros(2, 2), levels)
