"""What the U-Nets are made of: residual blocks, modulated in one of two ways, that can change the resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from lightning_gen.errors import UserError
from lightning_gen.networks.layers import SelfAttention, modulated_group_norm, num_groups, zero


def level_heights(
    name: str, shape: tuple[int, ...], multipliers: Sequence[int], counts: Sequence[int], attention: Sequence[int]
) -> list[int]:
    """The heights, in pixels, of a U-Net's levels, finest first: each half of the one before, rounded up.

    Args:
        name: of the network, for the errors.
        multipliers: one a level.
        counts: what must be positive beside the multipliers.
        attention: heights that some level must have.

    Raises:
        UserError: for data that are not images, counts that are not positive, attention at a height no level has.
    """
    if len(shape) != 3:
        raise UserError(f"{name} takes images (C, H, W), the data have shape {tuple(shape)}")
    if not multipliers or min(*multipliers, *counts) < 1:
        raise UserError(f"{name} needs one multiplier or more, and all its counts positive")
    heights = [-(-shape[1] // 2**level) for level in range(len(multipliers))]
    if missing := sorted(set(attention) - set(heights)):
        raise UserError(f"{name} has no level of height {missing[0]} for attention; its heights are {heights}")
    return heights


class ScaleShiftNorm(nn.Module):
    """GroupNorm that the embedding scales and shifts (Dhariwal and Nichol 2021). Has no gain and bias of its own:
    those of the linear map that makes the modulation do as much."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups, self.modulated = num_groups(channels, groups), 2 * channels

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x [B, C, H, W], modulation [B, 2 C]: scale and shift -> x's shape."""
        scale, shift = modulation.chunk(2, dim=1)
        return modulated_group_norm(x, self.groups, 1.0 + scale, shift)


class AddNorm(nn.GroupNorm):
    """GroupNorm of the sum with the embedding (Ho et al. 2020)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(num_groups(channels, groups), channels)
        self.modulated = channels

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x [B, C, H, W], modulation [B, C] -> x's shape."""
        return super().forward(x + modulation[:, :, None, None])


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, conv, modulated GroupNorm, SiLU, dropout, conv; starts as the identity or a 1x1 projection.

    Args:
        dropout: probability, before the second convolution.
        groups: of the norms, at most.
        norm: called as norm(channels, groups), makes the modulated norm; `modulated` features of it are modulation.
        resample: called as resample(x, size), changes the resolution of the residual branch (before its first
            convolution) and of the skip alike (BigGAN, Brock et al. 2019); None for a block of one resolution.
        project: whether the skip has its 1x1 convolution even where the channels stay as they are.
        gain: of the sum of the branches; 1/sqrt(2) keeps the variance of two equal ones.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dropout: float,
        groups: int,
        norm: Callable[[int, int], nn.Module] = ScaleShiftNorm,
        resample: Callable[[Tensor, torch.Size], Tensor] | None = None,
        project: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.resample, self.gain = resample, gain
        self.norm = nn.GroupNorm(num_groups(in_channels, groups), in_channels)
        self.conv_in = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.modulated_norm = norm(out_channels, groups)
        self.modulated: int = self.modulated_norm.modulated
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        plain = in_channels == out_channels and not project
        self.skip = nn.Identity() if plain else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, modulation: Tensor, size: torch.Size | None = None) -> Tensor:
        """x [B, C, H, W], modulation [B, modulated] -> [B, out_channels, H, W], or at `size` where it resamples."""
        h = silu(self.norm(x))
        if self.resample is not None:
            h, x = self.resample(h, size), self.resample(x, size)
        h = self.modulated_norm(self.conv_in(h), modulation)
        h = self.conv_out(self.dropout(silu(h)))
        h = h.add_(self.skip(x))  # in place: no derivative needs what a convolution put out
        return h if self.gain == 1.0 else h.mul_(self.gain)


class Stage(nn.Module):
    """A residual block and, at the resolutions that have it, self-attention, the sum with which has the gain too."""

    def __init__(self, block: ResidualBlock, attention: SelfAttention | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        x = self.block(x, modulation)
        if self.attention is None:
            return x
        x = self.attention(x)
        return x if self.block.gain == 1.0 else x * self.block.gain
