"""The U-Net of DDPM (Ho et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lightning_gen.networks.blocks import AddNorm, ResidualBlock
from lightning_gen.networks.layers import SelfAttention, upsample
from lightning_gen.networks.skip_unet import SkipUNet


class Shrink(nn.Conv2d):
    """A strided convolution, deaf to the embedding."""

    modulated = 0

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)]."""
        return super().forward(x)


class Grow(nn.Conv2d):
    """Each pixel twice in both directions, then a convolution, deaf to the embedding."""

    modulated = 0

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, modulation: Tensor, size: torch.Size) -> Tensor:
        """x [B, C, H, W] -> [B, C, *size], see `upsample`."""
        return super().forward(upsample(x, size))


class DDPMUNet(SkipUNet):
    """The network of Ho et al. (2020); with the defaults and (3, 32, 32) the 35.7 M one of their CIFAR-10 results.

    The embedding is added between the convolutions of a block; attention has one head. What differs from their code:
    log-SNR in place of the step's number, strided convolutions padded on both sides, torch's initial values where
    theirs are not zero. With (3, 32, 32), 3 channels out and no condition: 35,746,307 parameters, as theirs.

    Args:
        shape: of the data, (C, H, W).
        out_channels: of the output [B, out_channels, H, W].
        cond_dim: features of the condition; None for a network without one.
        channels: of the finest level, even.
        multipliers: of `channels`, one a level, finest first.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention: heights, in pixels, of the levels with self-attention after each block.
        dropout: probability, inside every block.
        groups: of the GroupNorms, at most; see `num_groups`.

    Raises:
        UserError: for data that are not images, odd channels, attention at a height that no level has.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        out_channels: int,
        cond_dim: int | None = None,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (16,),
        dropout: float = 0.1,
        groups: int = 32,
    ) -> None:
        super().__init__(
            shape,
            out_channels,
            cond_dim,
            channels,
            multipliers,
            blocks,
            attention,
            groups,
            block=partial(ResidualBlock, dropout=dropout, groups=groups, norm=AddNorm),
            attend=partial(SelfAttention, heads=1, groups=groups),
            shrink=Shrink,
            grow=Grow,
        )
