"""Greys of images: nothing clipped, nothing upside down, every level used."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.pixels import UnknownRange, eight_bits, quantize, resize_images


def test_sixteen_bits_are_rounded_to_eight():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for image in (Image.fromarray(values), Image.frombytes("I;16B", (256, 256), values.astype(">u2").tobytes())):
        found = np.asarray(eight_bits(image, grey=True))
        assert np.array_equal(found, np.rint(values / 257).astype(np.uint8))
        assert np.array_equal(np.asarray(eight_bits(image, grey=False)), np.stack([found] * 3, -1))


def png(bits: int, colour: int, row: bytes, clear: tuple[int, ...] = (), orientation: int = 1) -> Image.Image:
    """A PNG of one row, as its bytes say, with a transparent colour."""
    exif = Image.Exif()
    exif[0x0112] = orientation

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    width = len(row) * 8 // (bits * (3 if colour == 2 else 1))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0))
    mark = chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear)) if clear else b""
    mark += chunk(b"eXIf", exif.tobytes()[6:])
    content = header + mark + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return Image.open(BytesIO(b"\x89PNG\r\n\x1a\n" + content))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_of_a_grey_png_of_any_depth_one_grey_may_be_transparent(bits, turned):
    top = 2**bits - 1
    greys = [(top - k) % 2**bits for k in range(16)]
    row = sum(grey << bits * (15 - k) for k, grey in enumerate(greys)).to_bytes(2 * bits)
    for clear in {0, 1, top // 2, top}:
        image = png(bits, 0, row, (clear,), 3 if turned else 1)
        found = np.asarray(eight_bits(image, grey=True))[0, :: -1 if turned else 1]
        assert found.tolist() == [0 if grey == clear else round(grey * 255 / top) for grey in greys]


def test_a_transparent_colour_of_sixteen_bits_is_refused():
    row = np.array([0xFFFF, 0, 0, 0xFF00, 0, 0], ">u2").tobytes()
    assert np.asarray(eight_bits(png(16, 2, row), grey=False)).tolist() == [[[255, 0, 0]] * 2]
    with pytest.raises(UnknownRange, match="a transparent colour of 16 bits"):
        eight_bits(png(16, 2, row, (0xFFFF, 0, 0)), grey=False)
    eight = bytes([255, 0, 0, 254, 0, 0])
    assert np.asarray(eight_bits(png(8, 2, eight, (255, 0, 0)), grey=False)).tolist() == [[[0] * 3, [254, 0, 0]]]


@pytest.mark.parametrize("top", [255, 65535, 1000])
def test_a_pgm_of_any_depth_is_read(top):
    values = np.linspace(0, top, 7).astype("u1" if top < 256 else ">u2")
    with Image.open(BytesIO(b"P5 7 1 %d\n" % top + values.tobytes())) as image:
        found = np.asarray(eight_bits(image, grey=True))
    assert np.abs(found[0] - values.astype(float) * 255 / top).max() < 0.51


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_no_known_range_are_refused(mode):
    with pytest.raises(UnknownRange, match=rf"mode {mode}"):
        eight_bits(Image.new(mode, (2, 2)), grey=True)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_a_camera_says(tmp_path, orientation):
    upright = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3))
    turns = Image.Transpose
    stored = {1: [], 2: [turns.FLIP_LEFT_RIGHT], 3: [turns.ROTATE_180], 4: [turns.FLIP_TOP_BOTTOM],
              5: [turns.TRANSPOSE], 6: [turns.ROTATE_90], 7: [turns.TRANSVERSE], 8: [turns.ROTATE_270]}  # fmt: skip
    image, exif = upright, Image.Exif()
    for turn in stored[orientation]:
        image = image.transpose(turn)
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as file:
        assert np.array_equal(np.asarray(eight_bits(file, grey=True)), np.asarray(upright))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_metadata_leave_the_image(tmp_path):
    Image.new("L", (2, 2), 9).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff\x01\x12")
    with Image.open(tmp_path / "a.png") as file:
        assert np.asarray(eight_bits(file, grey=True)).tolist() == [[9, 9], [9, 9]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_lies_on_black(mode):
    colour = (200,) * (len(mode) - 1)
    found = [eight_bits(Image.new(mode, (1, 1), (*colour, alpha)), True).getpixel((0, 0)) for alpha in (0, 51, 255)]
    assert found == [0, 40, 200]


def test_a_transparent_entry_of_a_palette_is_black(tmp_path):
    image = Image.new("P", (2, 1), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.png", transparency=0)
    with Image.open(tmp_path / "a.png") as file:
        assert np.asarray(eight_bits(file, grey=False)).tolist() == [[[0, 0, 0], [0, 255, 0]]]


@pytest.mark.parametrize("levels", [2, 3, 17, 100, 255, 256])
def test_quantisation_keeps_the_order_and_uses_every_level_evenly(levels):
    greys = torch.arange(256, dtype=torch.uint8)
    values = quantize(greys, levels).long()
    assert (values.diff() >= 0).all()
    counts = torch.bincount(values, minlength=levels)
    assert len(counts) == levels and counts.max() - counts.min() <= 1
    assert torch.equal(values, (greys.double() / 256 * levels).floor().long())


def test_resizing_is_that_of_pillow_on_the_central_square():
    x = torch.randint(256, (3, 3, 8, 12), generator=torch.Generator().manual_seed(0)).byte()
    for image, found in zip(x, resize_images(x, 5)):
        centre = Image.fromarray(image[:, :, 2:10].permute(1, 2, 0).contiguous().numpy())
        expected = torch.from_numpy(np.array(centre.resize((5, 5), Image.Resampling.BICUBIC)))
        assert torch.equal(found.permute(1, 2, 0), expected)
    grey = x[:, :1, :, 2:10]
    assert resize_images(grey, 16).shape == (3, 1, 16, 16)
    assert resize_images(grey, 8) is grey
