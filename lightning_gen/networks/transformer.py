"""A bidirectional transformer whose blocks the noise level modulates (DiT's, Peebles and Xie 2023), for any tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from lightning_gen.errors import UserError
from lightning_gen.networks.layers import Embedding, attend, zero

WAVES = 256
"""Sines and cosines of log-SNR, as many as the paper's of the timestep."""
LONGEST_PERIOD = 10_000.0
"""Of the positions, in units of 2 pi tokens (Vaswani et al. 2017)."""


def waves(places: int, dim: int) -> Tensor:
    """Sines, then cosines of the places 0, 1, ... at `dim / 2` frequencies: float32 [places, dim]."""
    frequencies = LONGEST_PERIOD ** -(torch.arange(dim // 2, dtype=torch.float32) / (dim // 2))
    phase = torch.arange(places, dtype=torch.float32)[:, None] * frequencies
    return torch.cat([phase.sin(), phase.cos()], dim=1)


def modulated_layer_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LayerNorm of tokens [B, N, C] with the example's own scale and shift, each [B, C]."""
    return torch.addcmul(shift[:, None], layer_norm(x, x.shape[2:], eps=1e-6), 1.0 + scale[:, None])


class Block(nn.Module):
    """Self-attention, then an MLP of each token; norms and gates are the embedding's (adaLN-zero): starts as the
    identity."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_in = nn.Linear(width, hidden)
        self.mlp_out = nn.Linear(hidden, width)
        for linear in self.children():
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.modulation = zero(nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Tokens x [B, N, C], embedding [B, C] -> x's shape."""
        scale_a, shift_a, gate_a, scale_m, shift_m, gate_m = self.modulation(embedding).chunk(6, dim=1)
        mixed = self.out(attend(self.qkv(modulated_layer_norm(x, scale_a, shift_a)), self.heads))
        x = torch.addcmul(x, gate_a[:, None], mixed)
        hidden = gelu(self.mlp_in(modulated_layer_norm(x, scale_m, shift_m)), approximate="tanh")
        return torch.addcmul(x, gate_m[:, None], self.mlp_out(hidden))


class TokenTransformer(nn.Module):
    """From tokens to tokens, with fixed positions and adaLN-zero blocks. Zero until it is trained.

    Its subclasses say what the tokens of an example are.

    Args:
        positions: of the tokens, [N, width].
        in_features, out_features: of a token.
        cond_dim: features of the condition; None for a network without one.
        width: of the tokens.
        depth: blocks.
        heads: attention heads, which divide `width`.
        mlp_ratio: width of the MLPs' middle over `width`.
    """

    def __init__(
        self,
        positions: Tensor,
        in_features: int,
        out_features: int,
        cond_dim: int | None,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
    ) -> None:
        super().__init__()
        self.embedding = Embedding(width, cond_dim, WAVES)
        self.input = nn.Linear(in_features, width)
        nn.init.xavier_uniform_(self.input.weight)
        nn.init.zeros_(self.input.bias)
        # Not in checkpoints: a function of the shape.
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads, int(mlp_ratio * width)) for _ in range(depth))
        self.modulation = zero(nn.Linear(width, 2 * width))
        self.output = zero(nn.Linear(width, out_features))

    def transformed(self, tokens: Tensor, logsnr: Tensor, cond: Tensor | None) -> Tensor:
        """tokens [B, N, in_features], logsnr [B] in nats, cond [B, cond_dim] or None -> [B, N, out_features]."""
        embedding = self.embedding(logsnr, cond)
        h = self.input(tokens) + self.positions  # float32 from here on under autocast
        for block in self.blocks:
            h = block(h, embedding)
        return self.output(modulated_layer_norm(h, *self.modulation(embedding).chunk(2, dim=1)))


class Transformer(TokenTransformer):
    """A transformer whose tokens are the places of a sequence: every place sees every other. Zero until it is trained.

    Args:
        shape: of the data, (F, N): F features of each of N places.
        out_channels: of the output [B, out_channels, N].
        cond_dim: features of the condition; None for a network without one.
        width: of the tokens, even.
        depth: blocks.
        heads: attention heads.
        mlp_ratio: width of the MLPs' middle over `width`.

    Raises:
        UserError: for data that are not sequences, an odd width, heads that do not divide it.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        out_channels: int,
        cond_dim: int | None = None,
        width: int = 256,
        depth: int = 6,
        heads: int = 4,
        mlp_ratio: float = 4.0,
    ) -> None:
        if len(shape) != 2:
            raise UserError(f"Transformer takes sequences (F, N), the data have shape {tuple(shape)}")
        if min(width, depth, heads, mlp_ratio * width) < 1:
            raise UserError("Transformer needs width, depth, heads and mlp_ratio positive")
        if width % 2 or width % heads:
            raise UserError(f"width must be a multiple of 2 and of heads, got width {width} and {heads} heads")
        features, length = shape
        super().__init__(waves(length, width), features, out_channels, cond_dim, width, depth, heads, mlp_ratio)

    def forward(self, x: Tensor, logsnr: Tensor, cond: Tensor | None = None) -> Tensor:
        """x [B, F, N], logsnr [B] in nats, cond [B, cond_dim] or None -> [B, out_channels, N] in x's dtype."""
        return self.transformed(x.transpose(1, 2), logsnr, cond).transpose(1, 2).to(x.dtype)
