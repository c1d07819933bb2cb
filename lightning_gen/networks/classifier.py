"""A network that says something of a noisy image as a whole: half a U-Net, and attention in place of the other half."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from lightning_gen.errors import UserError
from lightning_gen.networks.blocks import ResidualBlock, Stage, level_heights
from lightning_gen.networks.layers import Embedding, SelfAttention, fast_layout, num_groups, zero


class AttentionPool(nn.Module):
    """One vector of all pixels: multi-head attention whose query is their mean (as in CLIP, Radford et al. 2021).

    It knows no positions: the convolutions before it have seen them.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise UserError(f"{heads} attention heads do not divide {channels} channels")
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C]."""
        tokens = x.flatten(2).transpose(1, 2)
        mean = tokens.mean(1, keepdim=True)
        tokens = torch.cat([mean, tokens], dim=1)
        q = self.query(mean).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(tokens).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1)


class UNetEncoder(nn.Module):
    """The way down of a `UNet` and its middle, then `AttentionPool`: the noisy classifier of Dhariwal & Nichol 2021, app. G.

    Log-SNR and condition scale and shift the second norm of every block. The output is zero until it is trained: every
    class is as probable as any other.

    Args:
        shape: of the data, (C, H, W).
        out_features: of the output [B, out_features].
        cond_dim: features of the condition; None for a network without one.
        channels: of the finest level.
        multipliers: of `channels`, one a level, finest first.
        blocks: residual blocks a level; the coarsest has `2 blocks`.
        attention: heights, in pixels, of the levels with self-attention.
        heads: attention heads, of the pool too.
        dropout: probability, inside every block.
        groups: of the GroupNorms, at most; see `num_groups`.

    Raises:
        UserError: for data that are not images, attention at a height that no level has, heads that do not divide.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        out_features: int,
        cond_dim: int | None = None,
        channels: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 1,
        attention: Sequence[int] = (),
        heads: int = 4,
        dropout: float = 0.0,
        groups: int = 32,
    ) -> None:
        super().__init__()
        heights = level_heights("UNetEncoder", shape, multipliers, (channels, blocks, heads, groups), attention)
        widths = [channels * multiplier for multiplier in multipliers]
        coarsest = len(widths) - 1

        def stages(level: int) -> nn.ModuleList:
            return nn.ModuleList(
                Stage(
                    ResidualBlock(widths[level], widths[level], dropout, groups),
                    SelfAttention(widths[level], heads, groups) if heights[level] in attention else None,
                )
                for _ in range(2 * blocks if level == coarsest else blocks)
            )

        self.embedding = Embedding(4 * channels, cond_dim)
        self.input = nn.Conv2d(shape[0], widths[0], 3, padding=1)
        self.levels = nn.ModuleList(stages(level) for level in range(len(widths)))
        self.shrink = nn.ModuleList(
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in zip(widths, widths[1:])
        )
        self.norm = nn.GroupNorm(num_groups(widths[-1], groups), widths[-1])
        self.pool = AttentionPool(widths[-1], heads)
        self.output = zero(nn.Linear(widths[-1], out_features))
        self.modulated = [stage.block.modulated for level in self.levels for stage in level]
        self.modulation = nn.Linear(4 * channels, sum(self.modulated))  # one matrix for all blocks

    def forward(self, x: Tensor, logsnr: Tensor, cond: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], logsnr [B] in nats, cond [B, cond_dim] or None -> [B, out_features] in x's dtype."""
        modulation = iter(self.modulation(self.embedding(logsnr, cond)).split(self.modulated, dim=1))
        h = fast_layout(self.input(x))
        for i, stages in enumerate(self.levels):
            if i:
                h = self.shrink[i - 1](h)
            for stage in stages:
                h = stage(h, next(modulation))
        return self.output(self.pool(nn.functional.silu(self.norm(h)))).to(x.dtype)
