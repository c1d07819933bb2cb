"""The two ends of the data: integers (or vectors) to the x0 that is diffused, and p(x | z_0) back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_gen.diffusion.paths import NoiseLevel, broadcast

_CHUNK = 1 << 22
"""Elements of the largest intermediate, so that 256 levels of a batch of big images stay in 32 MiB each."""


_NEGLIGIBLE = 40.0
"""Nats below the largest term at which another cannot be seen, in float64 either."""


class Decoder(ABC):
    """p(x | z_0), where z_0 = alpha x0 + sigma eps at t = 0."""

    integers: bool

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """x0, float32 [B, ...], from the data's own domain."""

    @abstractmethod
    def decode(self, z: Tensor, level: NoiseLevel) -> Tensor:
        """The mode of p(x | z_0), in the data's own domain."""

    @abstractmethod
    def log_prob(self, x: Tensor, z: Tensor, level: NoiseLevel) -> Tensor:
        """log p(x | z_0), [B] in nats, float64."""


class LevelDecoder(Decoder):
    """Integers {0..L-1} at L equally spaced points of [-1, 1], each pixel decoded on its own.

    p(x = l | z) is proportional to N(z; alpha v_l, sigma^2), normalised over the levels (Kingma et al. 2021, eq. 8).

    Args:
        levels: L, at least 2.
    """

    integers = True

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def encode(self, x: Tensor) -> Tensor:
        return x.float() * (2 / (self.levels - 1)) - 1

    def decode(self, z: Tensor, level: NoiseLevel) -> Tensor:
        # Equal variances: the most probable level is the nearest one.
        index = ((z / broadcast(level.alpha, z) + 1) * ((self.levels - 1) / 2)).round().clamp(0, self.levels - 1)
        return index.to(torch.uint8 if self.levels <= 256 else torch.int64)

    def log_prob(self, x: Tensor, z: Tensor, level: NoiseLevel) -> Tensor:
        mean = (z / broadcast(level.alpha, z)).flatten(1)
        precision = level.logsnr.exp().expand(len(x))[:, None]  # alpha^2 / sigma^2, of x0 given z
        spacing = 2 / (self.levels - 1)
        own = -0.5 * precision * (mean - (x.flatten(1).to(mean.dtype) * spacing - 1)).square()
        # k levels from the nearest one a term is at most exp(-precision/2 (k - 1) k spacing^2) of its
        reach = math.ceil(math.sqrt(2 * _NEGLIGIBLE / float(precision.min())) / spacing) + 1
        offsets = torch.arange(-reach, reach + 1, device=z.device) if 2 * reach + 1 < self.levels else None
        terms = self.levels if offsets is None else len(offsets)
        parts = (part.split(max(1, _CHUNK // (mean[0].numel() * terms))) for part in (mean, precision))
        normaliser = torch.cat([self._log_normaliser(m, p, offsets) for m, p in zip(*parts)])
        return (own - normaliser).double().sum(1)

    def _log_normaliser(self, mean: Tensor, precision: Tensor, offsets: Tensor | None) -> Tensor:
        """log sum_l exp(-precision/2 (mean - v_l)^2), [B, D], over the levels at `offsets` from the nearest, or all."""
        spacing = 2 / (self.levels - 1)
        if offsets is None:
            index = torch.arange(self.levels, device=mean.device)
            return torch.logsumexp(-0.5 * precision[..., None] * (mean[..., None] - (index * spacing - 1)).square(), -1)
        nearest = ((mean + 1) / spacing).round().clamp(0, self.levels - 1)
        index = nearest[..., None] + offsets
        exponent = -0.5 * precision[..., None] * (mean[..., None] - (index * spacing - 1)).square()
        return torch.logsumexp(exponent.masked_fill_((index < 0) | (index > self.levels - 1), -math.inf), -1)


class VectorDecoder(Decoder):
    """Real vectors, diffused as they are: p(x | z_0) = N(x; z_0 / alpha, sigma^2 / alpha^2), a density."""

    integers = False

    def encode(self, x: Tensor) -> Tensor:
        return x.float()

    def decode(self, z: Tensor, level: NoiseLevel) -> Tensor:
        return z / broadcast(level.alpha, z)

    def log_prob(self, x: Tensor, z: Tensor, level: NoiseLevel) -> Tensor:
        error = (z / broadcast(level.alpha, z) - x).flatten(1).double().square()
        logsnr = level.logsnr.double().expand(len(x))[:, None]
        return (0.5 * (logsnr - math.log(2 * math.pi)) - 0.5 * logsnr.exp() * error).sum(1)
