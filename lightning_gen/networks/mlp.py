"""A residual MLP for vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from lightning_gen.errors import UserError
from lightning_gen.networks.layers import Embedding, zero


class ResidualLayer(nn.Module):
    """Modulated LayerNorm, SiLU, linear, SiLU, dropout, linear; starts as the identity."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.linear_in = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.linear_out = zero(nn.Linear(width, width))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x [B, width], modulation [B, 2 width] -> [B, width]."""
        scale, shift = modulation.chunk(2, dim=1)
        h = torch.addcmul(shift, layer_norm(x, x.shape[1:]), 1.0 + scale)
        return x + self.linear_out(self.dropout(silu(self.linear_in(silu(h)))))


class MLP(nn.Module):
    """Residual layers of one width, their norms scaled and shifted by log-SNR and condition. Zero until it is trained.

    Args:
        shape: of the data, (D,).
        out_channels: features of the output [B, out_channels].
        cond_dim: features of the condition; None for a network without one.
        width: of every layer and of the embedding, even.
        depth: residual layers, two matrices each.
        dropout: probability, inside every layer.

    Raises:
        UserError: for data that are not vectors.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        out_channels: int,
        cond_dim: int | None = None,
        width: int = 256,
        depth: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(shape) != 1:
            raise UserError(f"MLP takes vectors (D,), the data have shape {tuple(shape)}")
        self.embedding = Embedding(width, cond_dim)
        self.input = nn.Linear(shape[0], width)
        self.layers = nn.ModuleList(ResidualLayer(width, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.output = zero(nn.Linear(width, out_channels))
        self.modulation = nn.Linear(width, 2 * width * depth)

    def forward(self, x: Tensor, logsnr: Tensor, cond: Tensor | None = None) -> Tensor:
        """x [B, D], logsnr [B] in nats, cond [B, cond_dim] or None -> [B, out_channels] in x's dtype."""
        modulation = self.modulation(self.embedding(logsnr, cond)).chunk(len(self.layers), dim=1)
        h = self.input(x)
        for layer, m in zip(self.layers, modulation):
            h = layer(h, m)
        return self.output(silu(self.norm(h))).to(x.dtype)
