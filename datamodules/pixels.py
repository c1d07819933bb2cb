"""Greys of images: eight bits of what a file holds, the central square, levels. Nothing of data sets."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lightning_gen.random_source import RandomSource

GREY_STEP = {"1": 255, "L;2": 85, "L;4": 17}
"""{raw mode of a grey PNG of fewer than 8 bits: the grey of its integer 1}."""


class UnknownRange(ValueError):
    """Pixels whose black and white, or transparency, cannot be told."""


def eight_bits(image: Image.Image, grey: bool) -> Image.Image:
    """An image of mode L or RGB, upright by its EXIF orientation.

    Sixteen bits of grey become round(value / 257), so that black and white stay what they are; of sixteen bits of a
    colour Pillow keeps the higher eight. What is transparent lies on black.

    Raises:
        UnknownRange: pixels of 32 bits; a transparent colour of 16 bits, which cannot be told from its neighbours.
    """
    stored = image.tile[0][3] if getattr(image, "tile", None) else None  # of a PNG: its raw mode
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode in ("I", "F") and not sixteen:
        raise UnknownRange(f"pixels of 32 bits (mode {image.mode})")
    if stored == "RGB;16B" and "transparency" in image.info:
        raise UnknownRange("a transparent colour of 16 bits")
    image.load()
    # damaged metadata of an image that is whole say nothing
    with contextlib.suppress(struct.error, SyntaxError, ValueError, LookupError, TypeError, OSError):
        image = ImageOps.exif_transpose(image)
    clear = image.info.get("transparency")
    if sixteen:
        values = np.asarray(image).astype(np.uint32)
        values[values == (clear if isinstance(clear, int) else 2**16)] = 0
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif "A" in image.getbands() or clear is not None:
        if isinstance(clear, int):  # in a PNG's own bits, which Pillow leaves as they are
            image.info["transparency"] = min(255, clear * GREY_STEP.get(stored, 1))
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("L" if grey else "RGB")


def quantize(x: Tensor, levels: int) -> Tensor:
    """floor(x levels / 256), uint8 {0..levels-1}, of greys `x` uint8."""
    if levels == 256:
        return x
    table = (np.arange(256) * levels // 256).astype(np.uint8)
    return torch.from_numpy(table[x.numpy()])


def square(image: Image.Image, side: int) -> Image.Image:
    """The central square of an image, resized to `side` (bicubic; when it shrinks, over all pixels it covers)."""
    width, height = image.size
    edge = min(width, height)
    if width != height:  # not by `resize(box=...)`, which looks at the pixels around the box
        left, top = (width - edge) // 2, (height - edge) // 2
        image = image.crop((left, top, left + edge, top + edge))
    return image.resize((side, side), Image.Resampling.BICUBIC)


def to_array(image: Image.Image) -> np.ndarray:
    """uint8 [C, H, W] of an image of mode L or RGB."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def resize_images(x: Tensor, side: int | None) -> Tensor:
    """Images uint8 [N, C, H, W] with C = 1 or 3, each made `square`; as they are where they have that size."""
    if side is None or x.shape[-2:] == (side, side):
        return x
    out = np.empty((*x.shape[:2], side, side), dtype=np.uint8)
    pixels = x.permute(0, 2, 3, 1).contiguous().numpy()
    for row, image in enumerate(pixels.squeeze(-1) if x.shape[1] == 1 else pixels):
        out[row] = to_array(square(Image.fromarray(image), side))
    return torch.from_numpy(out)


def flip_half(x: Tensor, rng: RandomSource) -> Tensor:
    """Images uint8 [B, C, H, W], each mirrored left to right with probability 1/2."""
    chosen = rng.uniform((len(x), 1, 1, 1)) < 0.5
    return x + chosen * (x.flip(-1) - x)  # modulo 256 this is exact, and a quarter of the time of `torch.where`
