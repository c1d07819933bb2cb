"""A transformer of patches for images (DiT, Peebles and Xie 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.networks.transformer import TokenTransformer, waves


def patchify(x: Tensor, patch: int) -> Tensor:
    """Images [B, C, H, W] -> [B, H/patch W/patch, C patch patch], patches row by row."""
    return x.unflatten(3, (-1, patch)).unflatten(2, (-1, patch)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatchify(tokens: Tensor, patch: int, height: int) -> Tensor:
    """[B, H/patch W/patch, C patch patch] -> [B, C, H, W] of the given H: undoes `patchify`."""
    grid = tokens.unflatten(1, (height // patch, -1)).unflatten(3, (-1, patch, patch))
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def positions(rows: int, columns: int, dim: int) -> Tensor:
    """Sines and cosines of a patch's row, then of its column, `dim / 2` features each: float32 [rows columns, dim]."""
    down = waves(rows, dim // 2)[:, None].expand(-1, columns, -1)
    across = waves(columns, dim // 2).expand(rows, -1, -1)
    return torch.cat([down, across], dim=2).flatten(0, 1)


class DiT(TokenTransformer):
    """A transformer whose tokens are patches, with fixed positions and adaLN-zero blocks. Zero until it is trained.

    The paper's sizes are `DiTS`, `DiTB`, `DiTL` and `DiTXL`; theirs count the positions and the vectors of 1000 classes
    too, which are a buffer and the conditioner's here.

    Args:
        shape: of the data, (C, H, W).
        out_channels: of the output [B, out_channels, H, W].
        cond_dim: features of the condition; None for a network without one.
        patch: side of a patch, in pixels; divides H and W. Halving it makes four times the tokens.
        width: of the tokens, a multiple of 4.
        depth: blocks.
        heads: attention heads.
        mlp_ratio: width of the MLPs' middle over `width`.

    Raises:
        UserError: for data that are not images, patches or heads that do not divide, a width without four quarters.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        out_channels: int,
        cond_dim: int | None = None,
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
    ) -> None:
        if len(shape) != 3:
            raise UserError(f"DiT takes images (C, H, W), the data have shape {tuple(shape)}")
        if min(patch, width, depth, heads, mlp_ratio * width) < 1:
            raise UserError("DiT needs patch, width, depth, heads and mlp_ratio positive")
        channels, height, columns = shape
        if height % patch or columns % patch:
            raise UserError(f"patches of {patch} pixels do not divide images of {height}x{columns}: change patch")
        if width % 4 or width % heads:
            raise UserError(f"width must be a multiple of 4 and of heads, got width {width} and {heads} heads")
        places = positions(height // patch, columns // patch, width)
        features = (channels * patch**2, out_channels * patch**2)
        super().__init__(places, *features, cond_dim, width, depth, heads, mlp_ratio)
        self.patch = patch

    def forward(self, x: Tensor, logsnr: Tensor, cond: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], logsnr [B] in nats, cond [B, cond_dim] or None -> [B, out_channels, H, W] in x's dtype."""
        tokens = self.transformed(patchify(x, self.patch), logsnr, cond)
        return unpatchify(tokens, self.patch, x.shape[2]).to(x.dtype)


class DiTS(DiT):
    """Width 384, depth 12, 6 heads: 33 M parameters."""

    def __init__(self, shape: tuple[int, ...], out_channels: int, cond_dim: int | None = None, patch: int = 2) -> None:
        super().__init__(shape, out_channels, cond_dim, patch, width=384, depth=12, heads=6)


class DiTB(DiT):
    """Width 768, depth 12, 12 heads: 130 M parameters."""

    def __init__(self, shape: tuple[int, ...], out_channels: int, cond_dim: int | None = None, patch: int = 2) -> None:
        super().__init__(shape, out_channels, cond_dim, patch, width=768, depth=12, heads=12)


class DiTL(DiT):
    """Width 1024, depth 24, 16 heads: 457 M parameters."""

    def __init__(self, shape: tuple[int, ...], out_channels: int, cond_dim: int | None = None, patch: int = 2) -> None:
        super().__init__(shape, out_channels, cond_dim, patch, width=1024, depth=24, heads=16)


class DiTXL(DiT):
    """Width 1152, depth 28, 16 heads: 674 M parameters."""

    def __init__(self, shape: tuple[int, ...], out_channels: int, cond_dim: int | None = None, patch: int = 2) -> None:
        super().__init__(shape, out_channels, cond_dim, patch, width=1152, depth=28, heads=16)
