"""The U-Net of ADM (Dhariwal and Nichol 2021), also EDM's for ImageNet-64 (Karras et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from lightning_gen.errors import UserError
from lightning_gen.networks.blocks import ResidualBlock
from lightning_gen.networks.layers import SelfAttention, downsample, upsample
from lightning_gen.networks.skip_unet import SkipUNet


class ADMUNet(SkipUNet):
    """BigGAN's resampling inside residual blocks, norms scaled and shifted, heads of a fixed number of channels.

    The defaults are the sizes of EDM's CIFAR-10 network: 60,841,219 parameters with (3, 32, 32), 3 channels out and no
    condition. (EDM's own, 56 M, adds the embedding: `DDPMPPUNet`.) ADM's for ImageNet-64 has 192 channels, multipliers
    (1, 2, 3, 4), 3 blocks, attention (32, 16, 8), dropout 0.1, 6 channels out: 295,100,742, to which theirs adds
    vectors of 1000 classes and gains and biases of the modulated norms, which the modulation has already: 296 M.

    Args:
        shape: of the data, (C, H, W).
        out_channels: of the output [B, out_channels, H, W].
        cond_dim: features of the condition; None for a network without one.
        channels: of the finest level, even.
        multipliers: of `channels`, one a level, finest first.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention: heights, in pixels, of the levels with self-attention after each block.
        head_channels: channels of each attention head.
        dropout: probability, inside every block.
        rescale: whether every sum of branches is multiplied by 1/sqrt(2), as by Song et al. (2021).
        groups: of the GroupNorms, at most; see `num_groups`.

    Raises:
        UserError: for data that are not images, odd channels, attention at a height that no level has, heads that do
            not divide.
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
        head_channels: int = 64,
        dropout: float = 0.13,
        rescale: bool = False,
        groups: int = 32,
    ) -> None:
        if head_channels < 1:
            raise UserError(f"head_channels must be positive, got {head_channels}")
        block = partial(ResidualBlock, dropout=dropout, groups=groups, gain=0.5**0.5 if rescale else 1.0)

        def attend(width: int) -> SelfAttention:
            if width % head_channels:
                raise UserError(f"{width} channels are no whole number of attention heads: set head_channels to divide")
            return SelfAttention(width, width // head_channels, groups)

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
            attend=attend,
            shrink=lambda width: block(width, width, resample=downsample),
            grow=lambda width: block(width, width, resample=upsample),
        )
