"""What several networks are made of."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, group_norm, interpolate, scaled_dot_product_attention

from lightning_gen.errors import UserError
from lightning_gen.networks.embeddings import LogSNREmbedding

Module = TypeVar("Module", bound=nn.Module)


def zero(module: Module) -> Module:
    """`module` with every parameter set to zero: what it feeds starts without it."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def own_dtype(network: nn.Module, default: torch.dtype) -> torch.dtype:
    """Of a network's weights, in which it takes its input; `default` where it has none."""
    return next((p.dtype for p in network.parameters()), default)


def num_groups(channels: int, at_most: int) -> int:
    """How many groups GroupNorm makes of `channels`: the largest divisor that is not above `at_most` and leaves each
    at least four channels. A group of one channel at one pixel is normalised to nothing."""
    return max(n for n in range(1, at_most + 1) if channels % n == 0 and (n == 1 or channels // n >= 4))


def modulated_group_norm(x: Tensor, groups: int, gain: Tensor, shift: Tensor) -> Tensor:
    """GroupNorm whose gain and shift, each [B, C], are the example's own (FiLM, Perez et al. 2018); of x's shape.

    A contiguous x [B, C, H, W] is seen as one example of B*C channels in B*groups groups: the same statistics, and the
    kernel's affine part does the modulation, which would otherwise take two more passes over memory forward and four
    back. In other layouts that view would be a copy.
    """
    if x.is_contiguous():
        batch, channels = x.shape[:2]
        merged = x.view(1, batch * channels, *x.shape[2:])
        return group_norm(merged, batch * groups, gain.flatten(), shift.flatten()).view(x.shape)
    return torch.addcmul(shift[:, :, None, None], group_norm(x, groups), gain[:, :, None, None])


def fast_layout(x: Tensor) -> Tensor:
    """x [B, C, H, W] in the memory format in which what follows runs fastest on a CPU; elsewhere the caller's own.

    float32 from 16x16 pixels on: channels last, in which convolutions take 0.6 to 0.9 times as long (oneDNN reorders
    neither input nor output) and `upsample` 0.2 to 0.3. Smaller images and bfloat16: contiguous, since a GroupNorm of
    few channels a group takes longer channels last, twice in float32 and up to ten times in bfloat16.
    """
    if x.device.type != "cpu":
        return x
    last = x.dtype == torch.float32 and x.shape[2] * x.shape[3] >= 256
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def upsample(x: Tensor, size: torch.Size) -> Tensor:
    """Each pixel twice in both directions, cropped to `size` (H, W), at most one pixel less.

    Undoes the ceil(n / 2) of a strided convolution with output pixel i over input pixel i // 2, also at odd sizes,
    where `interpolate(size=...)` would stretch. (Broadcasting is slower: its backward sums over pairs of pixels.)
    """
    return interpolate(x, scale_factor=2.0, mode="nearest")[:, :, : size[0], : size[1]]


def downsample(x: Tensor, size: torch.Size | None = None) -> Tensor:
    """The means of two by two pixels, at odd edges of those there are: [B, C, ceil(H / 2), ceil(W / 2)].

    `size` is not needed; it is there so that a block calls this as it calls `upsample`.
    """
    return avg_pool2d(x, 2, ceil_mode=True)


def check_condition(cond: Tensor | None, wanted: bool) -> None:
    """
    Raises:
        UserError: if a condition is missing, or given to a network that was built without one.
    """
    if (cond is None) == wanted:
        raise UserError(
            "this network was built with a condition and got none"
            if cond is None
            else "this network was built without a condition and got one: give cond_dim"
        )


class Embedding(nn.Module):
    """Noise level and condition as one vector, past its last SiLU: what modulates every block of a network.

    Args:
        dim: features of the output.
        cond_dim: features of the condition; None for none.
        waves: of log-SNR, see `LogSNREmbedding`.

    Raises:
        UserError: if a condition is missing, or given to a network that was built without one.
    """

    def __init__(self, dim: int, cond_dim: int | None, waves: int | None = None) -> None:
        super().__init__()
        self.logsnr = LogSNREmbedding(dim, waves)
        self.cond = None if cond_dim is None else nn.Linear(cond_dim, dim)

    def forward(self, logsnr: Tensor, cond: Tensor | None) -> Tensor:
        """logsnr [B], cond [B, cond_dim] or None -> [B, dim]."""
        embedding = self.logsnr(logsnr)
        check_condition(cond, wanted=self.cond is not None)
        if self.cond is not None:
            embedding = embedding + self.cond(cond)
        return nn.functional.silu(embedding)


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Multi-head attention of N tokens to each other: queries, keys and values [B, N, 3 C] -> [B, N, C]."""
    q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention over the pixels, added to its input; starts as the identity."""

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        if channels % heads:
            raise UserError(f"{heads} attention heads do not divide {channels} channels")
        self.heads = heads
        self.norm = nn.GroupNorm(num_groups(channels, groups), channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> the same shape."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        mixed = attend(self.qkv(tokens), self.heads)
        return x + self.out(mixed).transpose(1, 2).reshape(x.shape)
