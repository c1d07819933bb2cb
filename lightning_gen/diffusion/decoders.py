"""The two ends of the data: integers (or vectors) to the x0 that is diffused, and p(x | z_0) back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection

import torch
from torch import Tensor

from lightning_gen.broadcasting import broadcast
from lightning_gen.diffusion.denoisers import Denoiser
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.diffusion.reverse_variances import ReverseVariance
from lightning_gen.domains import Levels
from lightning_gen.errors import IncompatibleAxes, UserError

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

    @property
    def spacing(self) -> float:
        """Between two levels, in x0's units."""
        return 2 / (self.levels - 1)

    def encode(self, x: Tensor) -> Tensor:
        return Levels(self.levels).encode(x)

    def decode(self, z: Tensor, level: NoiseLevel) -> Tensor:
        # Equal variances: the most probable level is the nearest one.
        return Levels(self.levels).decode(z / broadcast(level.alpha, z))

    def log_prob(self, x: Tensor, z: Tensor, level: NoiseLevel) -> Tensor:
        mean = (z / broadcast(level.alpha, z)).flatten(1)
        precision = level.logsnr.exp().expand(len(x))[:, None]  # alpha^2 / sigma^2, of x0 given z
        spacing = self.spacing
        own = -0.5 * precision * (mean - (x.flatten(1).to(mean.dtype) * spacing - 1)).square()
        # k levels from the nearest one a term is at most exp(-precision/2 (k - 1) k spacing^2) of its
        # (to read the precision off a device is to wait for it: not in a training step, which takes all levels there)
        offsets = None
        if z.device.type == "cpu" or not precision.requires_grad:
            reach = math.ceil(math.sqrt(2 * _NEGLIGIBLE / float(precision.detach().min())) / spacing) + 1
            offsets = torch.arange(-reach, reach + 1, device=z.device) if 2 * reach + 1 < self.levels else None
        terms = self.levels if offsets is None else len(offsets)
        parts = (part.split(max(1, _CHUNK // (mean[0].numel() * terms))) for part in (mean, precision))
        normaliser = torch.cat([self._log_normaliser(m, p, offsets) for m, p in zip(*parts)])
        return (own - normaliser).double().sum(1)

    def _log_normaliser(self, mean: Tensor, precision: Tensor, offsets: Tensor | None) -> Tensor:
        """log sum_l exp(-precision/2 (mean - v_l)^2), [B, D], over the levels at `offsets` from the nearest, or all."""
        spacing = self.spacing
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


class Reconstruction(ABC):
    """What stands for p(x | z_0) in a bound: any distribution over x, the better the tighter. A new one defines `log_prob`."""

    def check(self, integers: bool, knows: Collection[str]) -> None:  # noqa: B027  most suit any model
        """Raises IncompatibleAxes for data that are no integers, or a model that does not know enough."""

    @abstractmethod
    def log_prob(
        self, decoder: Decoder, denoiser: Denoiser, x: Tensor, y: Tensor | None, z: Tensor, first: NoiseLevel
    ) -> Tensor:
        """log p(x | z_0), [B] in nats, float64; z is z_0 and `first` its level."""


class NetworkFree(Reconstruction):
    """The decoder itself, which asks no network (Kingma et al. 2021, eq. 8)."""

    def log_prob(
        self, decoder: Decoder, denoiser: Denoiser, x: Tensor, y: Tensor | None, z: Tensor, first: NoiseLevel
    ) -> Tensor:
        return decoder.log_prob(x, z, first)


class NetworkDecoder(Reconstruction):
    """The decoder around x0_hat = E[x0 | z_0] in the place of z_0 / alpha.

    Over levels it is a softmax: p(x = l | z_0) is proportional to exp(-alpha^2 / (2 sigma^2) (v_l - x0_hat)^2).
    """

    def log_prob(
        self, decoder: Decoder, denoiser: Denoiser, x: Tensor, y: Tensor | None, z: Tensor, first: NoiseLevel
    ) -> Tensor:
        return decoder.log_prob(x, first.alpha * denoiser(z, first.logsnr, y).x0, first)


class DiscretizedGaussian(Reconstruction):
    """N(x0; E[x0 | z_0], variance) integrated over each level's bin, the outermost bins open (Ho et al. 2020, eq. 13).

    DDPM's last step: its x_1 is z_0 here, and the mean of p(x_0 | x_1) is x0_hat.

    Args:
        variance: of that step, what its reverse variance would be had the chain a further one beyond t = 0; None for
            sigma^2 / alpha^2, beta_1 / (1 - beta_1) of DDPM (the paper's; code that descends from its own takes the posterior
            variance of the second step there, about half of it).
        steps: of the chain between t = 1 and t = 0, which says how far the further step would go.
    """

    def __init__(self, variance: ReverseVariance | None = None, steps: int = 1000) -> None:
        if steps < 2:
            raise UserError(f"DiscretizedGaussian's chain has at least two steps, got {steps}")
        self.variance, self.steps = variance, steps

    def check(self, integers: bool, knows: Collection[str]) -> None:
        if not integers:
            raise IncompatibleAxes("DiscretizedGaussian needs data with levels: vectors have no bins to integrate over")
        if self.variance is not None:
            self.variance.check(knows)

    def log_prob(
        self, decoder: Decoder, denoiser: Denoiser, x: Tensor, y: Tensor | None, z: Tensor, first: NoiseLevel
    ) -> Tensor:
        prediction = denoiser(z, first.logsnr, y)
        if self.variance is None:
            std = torch.exp(-0.5 * first.logsnr)
        else:
            beyond = first.earlier(1 / self.steps)
            std = self.variance(prediction, first, beyond).double().sqrt() / beyond.alpha
        mean = prediction.x0.double()
        edge, centre = 0.5 * decoder.spacing, x.double() * decoder.spacing - 1
        low = ((centre - edge - mean) / broadcast(std, mean)).masked_fill(x == 0, -math.inf)
        high = ((centre + edge - mean) / broadcast(std, mean)).masked_fill(x == decoder.levels - 1, math.inf)
        return log_normal_mass(low, high).flatten(1).sum(1)


def log_normal_mass(low: Tensor, high: Tensor) -> Tensor:
    """log(Phi(high) - Phi(low)), elementwise, low < high, either may be infinite. In the tails where its digits are."""
    mirrored = low + high > 0
    low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    above, below = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return above + torch.log(-torch.expm1(below - above))
