"""Pictures of samples: a sheet of images, or a scatter plot of vectors; and films of how they took shape."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.evaluation.pixels import to_uint8
from lightning_gen.powers import NOTHING
from lightning_gen.run_directory import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

FRAME_MS, LAST_FRAME_MS = 120, 1500
"""How long a film shows a frame, and its last one."""

NOTHING_YET = (90, 120, 170)
"""The colour, a dull blue that no grey is, of places where integers are -1: nothing is there yet, or it is a hole."""


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
    with written_whole(path) as partial:
        if _are_points(x):
            _scatter([x]).savefig(partial, bbox_inches="tight")
        else:
            _image(x, levels, columns).save(partial)


def save_film(x: Tensor, levels: int | None, path: Path) -> None:
    """Writes films [N, frames, *shape], in the data's own domain: of images, or of points [N, frames, 2].

    As a .gif, what `save_samples` would show, frame by frame; as a .png images have one row a sample, and points one panel
    a frame.

    Raises:
        UserError: for data that are neither.
    """
    with written_whole(path) as partial:
        _save_film(x, levels, partial)


def _save_film(x: Tensor, levels: int | None, path: Path) -> None:
    frames = list(x.unbind(1))
    if path.suffix == ".gif":
        extent = float(x.abs().max()) if _are_points(frames[0]) else None
        if extent is None:
            pictures = [_image(frame, levels) for frame in frames]
            modes = {picture.mode for picture in pictures}  # colours where one frame has some
            shown = [picture.convert("RGB") for picture in pictures] if len(modes) > 1 else pictures
        else:
            shown = [_rendered(_scatter([frame], extent)) for frame in frames]
        times = [FRAME_MS] * (len(shown) - 1) + [LAST_FRAME_MS]
        shown[0].save(path, save_all=True, append_images=shown[1:], duration=times, loop=0)
    elif _are_points(frames[0]):
        _scatter(frames, float(x.abs().max())).savefig(path, bbox_inches="tight")
    else:
        _image(x.flatten(0, 1), levels, columns=len(frames)).save(path)


def _are_points(x: Tensor) -> bool:
    return x.ndim == 2 and x.shape[1] == 2


def _image(x: Tensor, levels: int | None, columns: int | None = None) -> Image:
    from PIL import Image

    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise UserError(f"samples of shape {tuple(x.shape[1:])} have no picture")
    return Image.fromarray(sheet(_pixels(x, levels), columns).permute(1, 2, 0).squeeze(-1).numpy())


def _pixels(x: Tensor, levels: int | None) -> Tensor:
    """uint8 of images [N, C, H, W]; where integers are -1 in the colour NOTHING_YET, greys beside them in three channels.

    Of a pixel that lacks some channels only, these are the colour's.
    """
    if x.is_floating_point() or not x.dtype.is_signed:  # a byte of 255 passes for -1
        return to_uint8(x, levels)
    nothing = x == NOTHING
    if not nothing.any():
        return to_uint8(x, levels)
    pixels = to_uint8(x.masked_fill(nothing, 0), levels)
    return torch.where(nothing, torch.tensor(NOTHING_YET, dtype=torch.uint8)[:, None, None], pixels)


def _scatter(panels: list[Tensor], extent: float | None = None) -> Figure:
    """Points [N, 2] of each panel, side by side.

    Args:
        extent: of the axes to either side of 0; as the points need it by default.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 if len(panels) == 1 else 2.5 * len(panels), 5 if len(panels) == 1 else 2.5), dpi=120)
    for axes, points in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        axes.scatter(*points.float().T.numpy(), s=4, alpha=0.5, linewidths=0)
        axes.set_aspect("equal")
        if extent is not None:
            axes.set(xlim=(-1.05 * extent, 1.05 * extent), ylim=(-1.05 * extent, 1.05 * extent))
        if len(panels) > 1:
            axes.set(xticks=[], yticks=[])
    return figure


def _rendered(figure: Figure) -> Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    size = canvas.get_width_height()
    return Image.frombuffer("RGBA", size, canvas.buffer_rgba(), "raw", "RGBA", 0, 1).convert("RGB")
