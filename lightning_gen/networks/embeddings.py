"""The noise level as a vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LONGEST_PERIOD = 80.0
"""Nats. Twice the 40 nats that schedules span, so that the slowest sine is one-to-one over the whole range."""
SHORTEST_PERIOD = 0.5
"""Nats. A thousand steps over 20 nats lie 0.02 apart, a quarter of a radian here: plain even to bfloat16 layers.
Faster sines would only let the network tell apart noise levels at which the answer is the same."""


class LogSNREmbedding(nn.Module):
    """Sines and cosines of log-SNR with log-spaced periods (Vaswani et al. 2017), then a two-layer SiLU MLP.

    Autocast is off inside and the sines are float32 whatever the dtype of the weights: rounded to bfloat16, a thousand
    noise levels collapse to about half as many.

    Args:
        dim: features of the output.
        waves: sines and cosines together, an even number; as many as `dim` unless told.
    """

    def __init__(self, dim: int, waves: int | None = None) -> None:
        super().__init__()
        self.waves = dim if waves is None else waves
        if self.waves < 2 or self.waves % 2:
            raise ValueError(f"{'dim' if waves is None else 'waves'} must be even and positive, got {self.waves}")
        self.mlp = nn.Sequential(nn.Linear(self.waves, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, logsnr: Tensor) -> Tensor:
        """logsnr [B], nats -> [B, dim] in the dtype of the weights."""
        with torch.autocast(logsnr.device.type, enabled=False):
            # Made here and not kept as a buffer: `module.bfloat16()` would round a buffer.
            octaves = torch.linspace(0.0, 1.0, self.waves // 2, dtype=torch.float32, device=logsnr.device)
            periods = LONGEST_PERIOD * (SHORTEST_PERIOD / LONGEST_PERIOD) ** octaves
            phase = logsnr.float()[:, None] * (2.0 * math.pi / periods)
            features = torch.cat([phase.sin(), phase.cos()], dim=1)
            return self.mlp(features.to(self.mlp[0].weight.dtype))
