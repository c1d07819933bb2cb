"""The skeleton that DDPM's U-Net, DDPM++ and ADM have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from lightning_gen.errors import UserError
from lightning_gen.networks.blocks import ResidualBlock, Stage, level_heights
from lightning_gen.networks.layers import Embedding, SelfAttention, fast_layout, num_groups, zero


class SkipUNet(nn.Module):
    """A U-Net whose way up takes every tensor of the way down (Ho et al. 2020): the first convolution's, each block's
    and each reduction's.

    So a level has `blocks` blocks down and `blocks + 1` up; block, attention, block stand in the middle. Resolutions
    halve, rounding up, so any size will do. The output is zero until it is trained. What the parts are is for the
    subclasses to say. (`UNet` takes up the blocks' tensors only.)

    Args:
        shape: of the data, (C, H, W).
        out_channels: of the output [B, out_channels, H, W].
        cond_dim: features of the condition; None for a network without one.
        channels: of the finest level, even.
        multipliers: of `channels`, one a level, finest first.
        blocks: residual blocks a level on the way down.
        attention: heights, in pixels, of the levels with self-attention after their blocks.
        groups: of the GroupNorms, at most; see `num_groups`.
        block: called as block(in_channels, out_channels), makes a residual block.
        attend: called as attend(channels), makes self-attention.
        shrink: called as shrink(channels), makes what halves the resolution, itself called as (x, modulation); its
            `modulated` says how many features of modulation it takes.
        grow: the same for what doubles it, called as (x, modulation, size).
        attend_once: on the way up, attention only after the last block of a level.

    Raises:
        UserError: for data that are not images, odd channels, attention at a height that no level has.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        out_channels: int,
        cond_dim: int | None,
        channels: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        groups: int,
        *,
        block: Callable[[int, int], ResidualBlock],
        attend: Callable[[int], SelfAttention],
        shrink: Callable[[int], nn.Module],
        grow: Callable[[int], nn.Module],
        attend_once: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        heights = level_heights(name, shape, multipliers, (channels, blocks, groups), attention)
        if channels % 2:
            raise UserError(f"{name} makes as many sines and cosines as it has channels: make channels even")
        widths = [channels * multiplier for multiplier in multipliers]
        self.modulated: list[int] = []  # features of each part, in the order in which they are called

        def noted(part: nn.Module) -> nn.Module:
            self.modulated.append(part.modulated)
            return part

        def stage(in_channels: int, width: int, attends: bool) -> Stage:
            return Stage(noted(block(in_channels, width)), attend(width) if attends else None)

        self.embedding = Embedding(4 * channels, cond_dim, waves=channels)
        self.input = nn.Conv2d(shape[0], channels, 3, padding=1)
        skips = [channels]
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            if level:
                self.down.append(noted(shrink(skips[-1])))
                skips.append(skips[-1])
            for _ in range(blocks):
                self.down.append(stage(skips[-1], width, heights[level] in attention))
                skips.append(width)
        self.middle = nn.ModuleList(stage(widths[-1], widths[-1], attends) for attends in (True, False))
        self.grow, self.up = nn.ModuleList(), nn.ModuleList()
        before = widths[-1]
        for level, width in reversed(list(enumerate(widths))):
            if self.up:
                self.grow.append(noted(grow(before)))
            stages = nn.ModuleList()
            for i in range(blocks + 1):
                attends = heights[level] in attention and (i == blocks or not attend_once)
                stages.append(stage(before + skips.pop(), width, attends))
                before = width
            self.up.append(stages)
        self.norm = nn.GroupNorm(num_groups(widths[0], groups), widths[0])
        self.output = zero(nn.Conv2d(widths[0], out_channels, 3, padding=1))
        # One matrix for all parts: a product for each takes longer.
        self.modulation = nn.Linear(4 * channels, sum(self.modulated))

    def forward(self, x: Tensor, logsnr: Tensor, cond: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], logsnr [B] in nats, cond [B, cond_dim] or None -> [B, out_channels, H, W] in x's dtype."""
        modulation = iter(self.modulation(self.embedding(logsnr, cond)).split(self.modulated, dim=1))
        h = fast_layout(self.input(x))
        skips = [h]
        for part in self.down:
            h = part(h, next(modulation))
            skips.append(h)
        for stage in self.middle:
            h = stage(h, next(modulation))
        for grow, stages in zip([None, *self.grow], self.up):
            if grow is not None:
                h = grow(h, next(modulation), skips[-1].shape[2:])
            for stage in stages:
                h = stage(torch.cat([h, skips.pop()], dim=1), next(modulation))
        return self.output(silu(self.norm(h))).to(x.dtype)
