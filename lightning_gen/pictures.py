"""Pictures of samples: a sheet of images, or a scatter plot of vectors."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.evaluation.pixels import to_uint8


def sheet(pixels: Tensor, columns: int | None = None, gap: int = 2) -> Tensor:
    """One picture [C, H', W'] of uint8 images [N, C, H, W], row by row, small ones enlarged to at least 32 pixels."""
    num, channels, height, width = pixels.shape
    scale = max(1, math.ceil(32 / max(height, width)))
    pixels = pixels.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    height, width = height * scale, width * scale
    columns = columns or math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    canvas = torch.full((channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 127, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas


def save_samples(x: Tensor, levels: int | None, path: Path, columns: int | None = None) -> None:
    """Writes samples in the data's own domain: images [N, C, H, W] as a sheet, points [N, 2] as a scatter plot.

    Raises:
        UserError: for data that are neither.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if x.ndim == 4 and x.shape[1] in (1, 3):
        from PIL import Image

        canvas = sheet(to_uint8(x, levels), columns).permute(1, 2, 0)
        Image.fromarray(canvas.squeeze(-1).numpy()).save(path)
    elif x.ndim == 2 and x.shape[1] == 2:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 5), dpi=120)
        axes = figure.subplots()
        axes.scatter(*x.float().T.numpy(), s=4, alpha=0.5, linewidths=0)
        axes.set_aspect("equal")
        figure.savefig(path, bbox_inches="tight")
    else:
        raise UserError(f"samples of shape {tuple(x.shape[1:])} have no picture")
