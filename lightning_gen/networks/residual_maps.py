"""Residual convolutional maps: an encoder, a decoder, and one between any two layers of a hierarchy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod

from torch import Tensor, nn

from lightning_gen.errors import UserError
from lightning_gen.networks.blocks import ResidualBlock
from lightning_gen.networks.conv_maps import Size, halvings
from lightning_gen.networks.layers import downsample, num_groups, upsample
from lightning_gen.networks.maps import Dense, ModulatedMap, check_positive
from lightning_gen.networks.mlp import ResidualLayer


def _grow(x: Tensor, _: None, *, size: Size) -> Tensor:
    return upsample(x, size)


def grow_to(size: Size) -> Callable[[Tensor, None], Tensor]:
    """The `resample` of a `ResidualBlock` that doubles the resolution, to `size`. (A partial can be pickled.)"""
    return partial(_grow, size=size)


def _head(width: int, groups: int) -> nn.Module:
    return nn.Sequential(nn.GroupNorm(num_groups(width, groups), width), nn.SiLU())


class ResidualEncoder(ModulatedMap):
    """Stages of pre-activation residual blocks at falling resolutions; then a linear map of all pixels.

    Between two stages a block halves the resolution, rounding up (`ResidualBlock`). A new block does nothing else.

    Args:
        in_shape: of the images, (C, H, W).
        widths: channels of each stage, from the image on; the first stage has the image's own resolution.
        depth: residual blocks a stage.
        dropout: probability, inside every block.
        groups: of the GroupNorms, at most; see `num_groups`.

    Raises:
        UserError: for what is no image, or widths or a depth that are not positive.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        cond_dim: int | None = None,
        widths: Sequence[int] = (32, 64, 64),
        depth: int = 1,
        dropout: float = 0.0,
        groups: int = 32,
    ) -> None:
        check_positive("ResidualEncoder", widths=widths, depth=depth, groups=groups)
        sizes = halvings("ResidualEncoder", in_shape, len(widths) - 1)
        make = partial(ResidualBlock, dropout=dropout, groups=groups)
        blocks = []
        for i, width in enumerate(widths):
            if i:
                blocks.append(make(widths[i - 1], width, resample=downsample))
            blocks += [make(width, width) for _ in range(depth)]
        super().__init__(
            in_shape,
            out_shape,
            cond_dim,
            stem=nn.Conv2d(in_shape[0], widths[0], 3, padding=1),
            blocks=blocks,
            modulated=[block.modulated for block in blocks],
            head=_head(widths[-1], groups),
            output=Dense((widths[-1], *sizes[-1]), out_shape),
        )


class ResidualDecoder(ModulatedMap):
    """The way of a `ResidualEncoder` back: a linear map to the coarsest size, stages at rising resolutions, a convolution.

    Any height and width is met exactly.

    Args:
        out_shape: of the images, (C, H, W).
        widths: channels of each stage, as those of the encoder: the last is of the coarsest.
        depth: residual blocks a stage.
        dropout: probability, inside every block.
        groups: of the GroupNorms, at most; see `num_groups`.

    Raises:
        UserError: for what is no image, or widths or a depth that are not positive.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        cond_dim: int | None = None,
        widths: Sequence[int] = (32, 64, 64),
        depth: int = 1,
        dropout: float = 0.0,
        groups: int = 32,
    ) -> None:
        check_positive("ResidualDecoder", widths=widths, depth=depth, groups=groups)
        sizes = halvings("ResidualDecoder", out_shape, len(widths) - 1)
        make = partial(ResidualBlock, dropout=dropout, groups=groups)
        blocks = []
        for i in reversed(range(len(widths))):
            if i + 1 < len(widths):
                blocks.append(make(widths[i + 1], widths[i], resample=grow_to(sizes[i])))
            blocks += [make(widths[i], widths[i]) for _ in range(depth)]
        super().__init__(
            in_shape,
            out_shape,
            cond_dim,
            stem=Dense(in_shape, (widths[-1], *sizes[-1])),
            blocks=blocks,
            modulated=[block.modulated for block in blocks],
            head=_head(widths[0], groups),
            output=nn.Conv2d(widths[0], out_shape[0], 3, padding=1),
        )


class ConvBlock(ModulatedMap):
    """Residual blocks between any two layers of a hierarchy, each an image (C, H, W) or a vector (F,).

    Images may be of one resolution, or one of them the other halved (rounding up) one or more times; each halving or
    doubling has a residual block of its own. What has one pixel is as a vector: all pixels at the other end are linear
    in it, or it in them, and between two of the kind the layers are those of a `ResidualMLP`.

    Args:
        width: channels inside.
        depth: residual blocks after the last change of resolution.
        dropout: probability, inside every block.
        groups: of the GroupNorms, at most; see `num_groups`.

    Raises:
        UserError: for shapes of other kinds, or between whose sizes no halvings lead.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        cond_dim: int | None = None,
        width: int = 64,
        depth: int = 2,
        dropout: float = 0.0,
        groups: int = 32,
    ) -> None:
        check_positive("ConvBlock", width=width, depth=depth, groups=groups)
        for shape in (in_shape, out_shape):
            if len(shape) not in (1, 3):
                raise UserError(f"ConvBlock takes images (C, H, W) and vectors (F,), not shape {tuple(shape)}")
        vector_in, vector_out = prod(in_shape[1:]) == 1, prod(out_shape[1:]) == 1
        if vector_in and vector_out:
            inside: tuple[int, ...] = (width,)
            blocks: list[nn.Module] = [ResidualLayer(width, dropout) for _ in range(depth)]
            head: nn.Module = nn.Sequential(nn.LayerNorm(width), nn.SiLU())
        else:
            first = tuple((out_shape if vector_in else in_shape)[1:])
            last = first if vector_out else tuple(out_shape[1:])
            make = partial(ResidualBlock, width, width, dropout, groups)
            blocks = [make(resample=resample) for resample in _resamplings(first, last)]
            blocks += [make() for _ in range(depth)]
            inside = (width, *first)
            head = _head(width, groups)
        super().__init__(
            in_shape,
            out_shape,
            cond_dim,
            stem=Dense(in_shape, inside) if vector_in else nn.Conv2d(in_shape[0], width, 3, padding=1),
            blocks=blocks,
            modulated=[2 * width] * len(blocks),
            head=head,
            output=Dense(inside, out_shape) if vector_out else nn.Conv2d(width, out_shape[0], 3, padding=1),
        )


def _resamplings(start: Size, end: Size) -> list[Callable[[Tensor, None], Tensor]]:
    """How to come from one size to another, in halvings or in doublings.

    Raises:
        UserError: where neither lead there.
    """

    def down(fine: Size, coarse: Size) -> list[Size] | None:
        sizes = halvings("ConvBlock", (1, *fine), max(fine).bit_length())
        return sizes[: sizes.index(coarse)] if coarse in sizes else None

    if (sizes := down(start, end)) is not None:
        return [downsample] * len(sizes)
    if (sizes := down(end, start)) is not None:
        return [grow_to(size) for size in reversed(sizes)]
    raise UserError(
        f"ConvBlock halves or doubles sizes, which does not lead from {start[0]}x{start[1]} to {end[0]}x{end[1]}: "
        "change the shape of one of these layers"
    )
