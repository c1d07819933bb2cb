"""Plain convolutional maps: an encoder of strided convolutions, and a decoder that goes the other way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lightning_gen.errors import UserError
from lightning_gen.networks.blocks import ScaleShiftNorm
from lightning_gen.networks.layers import upsample
from lightning_gen.networks.maps import Dense, ModulatedMap, check_positive

Size = tuple[int, int]
"""Height and width, pixels."""


def halvings(name: str, shape: tuple[int, ...], count: int) -> list[Size]:
    """The sizes of an image (C, H, W), finest first: its own, and `count` times half of the one before, rounded up.

    Raises:
        UserError: for what is no image.
    """
    if len(shape) != 3:
        raise UserError(f"{name} is for images (C, H, W), not for shape {tuple(shape)}: choose an MLP for vectors")
    return [(-(-shape[1] // 2**i), -(-shape[2] // 2**i)) for i in range(count + 1)]


class ConvLayer(nn.Module):
    """A 3x3 convolution, GroupNorm scaled and shifted by the modulation, activation.

    Args:
        groups: of the norm, at most; see `num_groups`.
        stride: of the convolution.
        size: to which the input grows before the convolution, each pixel twice; None where it does not. (A transposed
            convolution would reach some pixels more often than others: Odena et al. 2016.)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int,
        activation: Callable[[], nn.Module],
        stride: int = 1,
        size: Size | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)
        self.norm = ScaleShiftNorm(out_channels, groups)
        self.modulated = self.norm.modulated
        self.activation = activation()

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x [B, C, H, W], modulation [B, modulated] -> [B, out_channels, H', W']."""
        if self.size is not None:
            x = upsample(x, self.size)
        return self.activation(self.norm(self.conv(x), modulation))


class ConvEncoder(ModulatedMap):
    """Strided convolutions, each of which halves the resolution, rounding up; then a linear map of all pixels.

    Args:
        in_shape: of the images, (C, H, W).
        widths: channels of each convolution, from the image on.
        activation: makes the module after each convolution and its norm.
        groups: of the GroupNorms, at most; see `num_groups`.

    Raises:
        UserError: for what is no image, or widths that are not positive.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        cond_dim: int | None = None,
        widths: Sequence[int] = (32, 64, 128),
        activation: Callable[[], nn.Module] = nn.SiLU,
        groups: int = 32,
    ) -> None:
        check_positive("ConvEncoder", widths=widths, groups=groups)
        sizes = halvings("ConvEncoder", in_shape, len(widths))
        channels = [in_shape[0], *widths]
        blocks = [ConvLayer(*pair, groups, activation, stride=2) for pair in zip(channels, widths)]
        super().__init__(
            in_shape,
            out_shape,
            cond_dim,
            stem=nn.Identity(),
            blocks=blocks,
            modulated=[block.modulated for block in blocks],
            head=nn.Identity(),
            output=Dense((widths[-1], *sizes[-1]), out_shape),
        )


class ConvDecoder(ModulatedMap):
    """The way of a `ConvEncoder` back: a linear map to the coarsest size, convolutions each of which doubles it, and one
    of all the pixels to the output. Any height and width is met exactly.

    Args:
        out_shape: of the images, (C, H, W).
        widths: channels at each size below the image's own, as those of the encoder: the last is of the coarsest. The
            image's own has as many as the first.
        activation: makes the module after the linear map, and after each convolution and its norm.
        groups: of the GroupNorms, at most; see `num_groups`.

    Raises:
        UserError: for what is no image, or widths that are not positive.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        cond_dim: int | None = None,
        widths: Sequence[int] = (32, 64, 128),
        activation: Callable[[], nn.Module] = nn.SiLU,
        groups: int = 32,
    ) -> None:
        check_positive("ConvDecoder", widths=widths, groups=groups)
        *finer, coarsest = halvings("ConvDecoder", out_shape, len(widths))
        channels = [widths[0], *widths]  # at each size, finest first
        blocks = [
            ConvLayer(channels[i + 1], channels[i], groups, activation, size=finer[i])
            for i in reversed(range(len(finer)))
        ]
        super().__init__(
            in_shape,
            out_shape,
            cond_dim,
            stem=nn.Sequential(Dense(in_shape, (widths[-1], *coarsest)), activation()),
            blocks=blocks,
            modulated=[block.modulated for block in blocks],
            head=nn.Identity(),
            output=nn.Conv2d(widths[0], out_shape[0], 3, padding=1),
        )
