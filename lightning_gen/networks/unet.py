"""A U-Net for images (Ronneberger et al. 2015; for diffusion Ho et al. 2020, Dhariwal and Nichol 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_gen.networks.blocks import ResidualBlock, Stage, level_heights
from lightning_gen.networks.layers import Embedding, SelfAttention, fast_layout, num_groups, upsample, zero


class UNet(nn.Module):
    """Residual blocks on a pyramid of resolutions, the way up seeing what the way down saw at each.

    Each level has `blocks` blocks down, whose outputs are kept, and `blocks` up, each of which takes one of them; the
    coarsest has `2 blocks` in a row. Resolutions halve by a strided convolution, rounding up, so any size will do.
    Log-SNR and condition scale and shift the second norm of every block. The output is zero until it is trained.

    Args:
        shape: of the data, (C, H, W).
        out_channels: of the output [B, out_channels, H, W].
        cond_dim: features of the condition; None for a network without one.
        channels: of the finest level.
        multipliers: of `channels`, one a level, finest first.
        blocks: residual blocks a level, in each direction.
        attention: heights, in pixels, of the levels with self-attention.
        heads: attention heads.
        dropout: probability, inside every block.
        groups: of the GroupNorms, at most; see `num_groups`.

    Raises:
        UserError: for data that are not images, attention at a height that no level has, heads that do not divide.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        out_channels: int,
        cond_dim: int | None = None,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (),
        heads: int = 4,
        dropout: float = 0.0,
        groups: int = 32,
    ) -> None:
        super().__init__()
        heights = level_heights("UNet", shape, multipliers, (channels, blocks, heads, groups), attention)
        widths = [channels * multiplier for multiplier in multipliers]
        self.modulated: list[int] = []

        def stages(level: int, count: int, skips: int = 0) -> nn.ModuleList:
            """Blocks of one level, each of which takes `skips` tensors of its own width beside its input."""
            width = widths[level]
            self.modulated += [width] * count
            return nn.ModuleList(
                Stage(
                    ResidualBlock((1 + skips) * width, width, dropout, groups),
                    SelfAttention(width, heads, groups) if heights[level] in attention else None,
                )
                for _ in range(count)
            )

        fine = range(len(widths) - 1)  # the levels above the coarsest
        self.embedding = Embedding(4 * channels, cond_dim)
        self.input = nn.Conv2d(shape[0], widths[0], 3, padding=1)
        self.down = nn.ModuleList(stages(level, blocks) for level in fine)
        self.shrink = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1) for i in fine)
        self.middle = stages(len(widths) - 1, 2 * blocks)
        self.grow = nn.ModuleList(nn.Conv2d(widths[i + 1], widths[i], 3, padding=1) for i in reversed(fine))
        self.up = nn.ModuleList(stages(level, blocks, skips=1) for level in reversed(fine))
        self.norm = nn.GroupNorm(num_groups(widths[0], groups), widths[0])
        self.output = zero(nn.Conv2d(widths[0], out_channels, 3, padding=1))
        # One matrix for all blocks: a product for each takes 1.3 to 1.6 times as long.
        self.modulation = nn.Linear(4 * channels, 2 * sum(self.modulated))

    def forward(self, x: Tensor, logsnr: Tensor, cond: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], logsnr [B] in nats, cond [B, cond_dim] or None -> [B, out_channels, H, W] in x's dtype."""
        sizes = [2 * width for width in self.modulated]
        modulation = iter(self.modulation(self.embedding(logsnr, cond)).split(sizes, dim=1))
        skips = []
        h = fast_layout(self.input(x))
        for stages, shrink in zip(self.down, self.shrink):
            for stage in stages:
                h = stage(h, next(modulation))
                skips.append(h)
            h = shrink(h)
        for stage in self.middle:
            h = stage(h, next(modulation))
        for grow, stages in zip(self.grow, self.up):
            # Convolved before it grows: a quarter of the arithmetic, and the blocks that follow smooth the seams.
            h = upsample(grow(h), skips[-1].shape[2:])
            for stage in stages:
                h = stage(torch.cat([h, skips.pop()], dim=1), next(modulation))
        return self.output(nn.functional.silu(self.norm(h))).to(x.dtype)
