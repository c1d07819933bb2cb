"""The U-Net called DDPM++ (Song et al. 2021), with which EDM's CIFAR-10 results were made (Karras et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from lightning_gen.networks.blocks import AddNorm, ResidualBlock
from lightning_gen.networks.layers import SelfAttention, downsample, upsample
from lightning_gen.networks.skip_unet import SkipUNet


class DDPMPPUNet(SkipUNet):
    """DDPM's network with BigGAN's resampling inside residual blocks, and every sum of branches times 1/sqrt(2).

    As in DDPM's the embedding is added and attention has one head; on the way up attention follows the last block of a
    level only. With the defaults, (3, 32, 32), 3 channels out and no condition it is EDM's for CIFAR-10: 55,732,739
    parameters, as theirs less the 1,152 that take in the augmentation. Song et al. have multipliers (1, 2, 2, 2) and
    dropout 0.1, and 8 blocks in the deep one.

    Args:
        shape: of the data, (C, H, W).
        out_channels: of the output [B, out_channels, H, W].
        cond_dim: features of the condition; None for a network without one.
        channels: of the finest level, even.
        multipliers: of `channels`, one a level, finest first.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention: heights, in pixels, of the levels with self-attention.
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
        multipliers: Sequence[int] = (2, 2, 2),
        blocks: int = 4,
        attention: Sequence[int] = (16,),
        dropout: float = 0.13,
        groups: int = 32,
    ) -> None:
        block = partial(ResidualBlock, dropout=dropout, groups=groups, norm=AddNorm, gain=0.5**0.5)
        super().__init__(
            shape,
            out_channels,
            cond_dim,
            channels,
            multipliers,
            blocks,
            attention,
            groups,
            block=block,
            attend=partial(SelfAttention, heads=1, groups=groups),
            shrink=lambda width: block(width, width, resample=downsample, project=True),
            grow=lambda width: block(width, width, resample=upsample, project=True),
            attend_once=True,
        )
