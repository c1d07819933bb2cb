"""Levels with an order and several modes, a pixel's channels bound together: PixelCNN++'s likelihood."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gen.categorical import draw_index
from lightning_gen.errors import UserError
from lightning_gen.logistic_bins import STD_TO_SCALE, LogisticBins
from lightning_gen.random_source import RandomSource
from lightning_gen.vae.observations.base import LevelObservation, moments, pieces, precise


class Mixture(NamedTuple):
    """A mixture of M logistic distributions at every place; C channels.

    Attributes:
        logits: of the components, [..., M, *places].
        location, log_scale: of a channel where those before it are 0, in [-1, 1]; [..., C, M, *places].
        coefficients: of the data of channel j in the location of channel c > j, at c (c - 1) / 2 + j; [..., pairs, M, *places].
    """

    logits: Tensor
    location: Tensor
    log_scale: Tensor
    coefficients: Tensor


class MixtureOfLogistics(LevelObservation):
    """A mixture of discretised logistics at every pixel, autoregressive over its channels (Salimans et al. 2017, eq. 2-3).

    p(x | z) = sum_k pi_k prod_c p_k(x_c | x_1 .. x_{c-1}) at a pixel, where the location of a channel is linear in the *data*
    of the channels before it. Its coefficients, within (-1, 1), are the network's. Sequences and vectors have one channel.

    Args:
        components: M.
    """

    def __init__(self, components: int = 10) -> None:
        super().__init__()
        if components < 1:
            raise UserError(f"MixtureOfLogistics needs components of at least 1, got {components}")
        self.components = components

    @property
    def channels(self) -> int:
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def places(self) -> tuple[int, ...]:
        """What is left of the shape without the channels."""
        return self.shape[1:] if len(self.shape) > 1 else self.shape

    @property
    def _sizes(self) -> tuple[int, int, int, int]:
        """Of the parts of the output, for each component and place, in the order of `Mixture`."""
        return 1, self.channels, self.channels, self.channels * (self.channels - 1) // 2

    @property
    def out_shape(self) -> tuple[int, ...]:
        multiple = self.components * sum(self._sizes)
        return (multiple, *self.places) if len(self.shape) > 1 else (multiple * self.places[0],)

    @property
    def _dim(self) -> int:
        """The components' dimension."""
        return -len(self.places) - 1

    def _mixture(self, out: Tensor) -> Mixture:
        """Its parameters from an output [..., *out_shape]."""
        lead = out.shape[: out.ndim - len(self.shape)]
        parts = precise(out).reshape(*lead, sum(self._sizes), self.components, *self.places)
        logits, location, log_scale, coefficients = parts.split(self._sizes, self._dim - 1)
        return Mixture(logits.squeeze(self._dim - 1), location, log_scale, coefficients.tanh())

    def _channel(self, mixture: Mixture, c: int, earlier: list[Tensor]) -> LogisticBins:
        """Channel c of all components, given the channels before it in [-1, 1], [..., M or 1, *places] each."""
        dim = self._dim - 1
        location = mixture.location.select(dim, c)
        for j, value in enumerate(earlier):
            location = location + mixture.coefficients.select(dim, c * (c - 1) // 2 + j) * value
        return LogisticBins.of(location, mixture.log_scale.select(dim, c), self.levels)

    def _scaled(self, level: Tensor) -> Tensor:
        """Levels, or their means, in [-1, 1] and their own dtype."""
        return level * (2 / (self.levels - 1)) - 1

    def _as_image(self, channels: list[Tensor]) -> Tensor:
        """[B, *shape] of the channels [B, 1, *places]."""
        return torch.cat(channels, 1).reshape(-1, *self.shape)

    def terms(self, out: Tensor, x: Tensor) -> Tensor:
        mixture = self._mixture(out)
        channels = x.reshape(len(x), self.channels, 1, *self.places).unbind(1)
        values = [self._scaled(channel.to(mixture.logits.dtype)) for channel in channels]
        joint = mixture.logits.log_softmax(self._dim)
        for c, channel in enumerate(channels):
            joint = joint + self._channel(mixture, c, values[:c]).log_prob(channel)
        return joint.logsumexp(self._dim)

    def sample(self, out: Tensor, rng: RandomSource) -> Tensor:
        """One component for each pixel, then channel after channel."""
        mixture, dim = self._mixture(out), self._dim
        chosen = draw_index(mixture.logits, rng.uniform((len(out), 1, *self.places)), dim).unsqueeze(dim)
        single = Mixture(
            mixture.logits.take_along_dim(chosen, dim),
            *(part.take_along_dim(chosen.unsqueeze(dim - 1), dim) for part in mixture[1:]),
        )
        u = rng.uniform((len(out), self.channels, 1, *self.places))
        levels: list[Tensor] = []
        for c in range(self.channels):
            given = [self._scaled(level) for level in levels]
            levels.append(self._channel(single, c, given).quantile(u[:, c]))
        return self.as_data(self._as_image(levels))

    def mode(self, out: Tensor) -> Tensor:
        """Channel after channel the most probable level given those before: for one channel the mode, for more near it."""
        return self.as_data(torch.cat([self._mode(part) for part in pieces(out)]))

    def _mode(self, out: Tensor) -> Tensor:
        mixture, dim = self._mixture(out), self._dim
        joint = mixture.logits.log_softmax(dim)
        levels: list[Tensor] = []
        for c in range(self.channels):
            bins = self._channel(mixture, c, [self._scaled(level) for level in levels])
            levels.append(_most_probable(bins, joint.softmax(dim), dim))
            joint = joint + bins.log_prob(levels[-1])
        return self._as_image(levels)

    def mean(self, out: Tensor) -> Tensor:
        """For one channel exact; later channels at the mean of those before in each component, not averaged over them.

        The location is linear in them: what this leaves out is rounding and the open bins at the ends.
        """
        return torch.cat([self._mean(part) for part in pieces(out)]).float()

    def _mean(self, out: Tensor) -> Tensor:
        mixture, dim = self._mixture(out), self._dim
        means: list[Tensor] = []
        for c in range(self.channels):
            given = [self._scaled(mean) for mean in means]
            means.append(self._channel(mixture, c, given).mean())
        weights = mixture.logits.softmax(dim)
        return self._as_image([(weights * mean).sum(dim, keepdim=True) for mean in means])

    def initial(self, x: Tensor) -> Tensor:
        """Components of equal weight at the quantiles of a logistic, together with the mean and variance of the data."""
        mean, std = moments(self.encode(x), 1 / (self.levels - 1))
        quantiles = ((torch.arange(self.components, device=x.device) + 0.5) / self.components).logit()
        spread = quantiles.square().mean().sqrt().clamp(min=torch.finfo(torch.float32).eps)
        # 1/M of the variance is within the components, the rest between them
        steps = ((1 - 1 / self.components) ** 0.5 * quantiles / spread).view(-1, *[1] * len(self.places))
        mean, std = (part.reshape(self.channels, 1, *self.places) for part in (mean, std))
        location = mean + std * steps
        log_scale = (std * (STD_TO_SCALE * self.components**-0.5)).log().expand_as(location)
        logits, coefficients = (location.new_zeros(self._sizes[i], *location.shape[1:]) for i in (0, 3))
        return torch.cat([logits, location, log_scale, coefficients]).reshape(self.out_shape)


def _most_probable(bins: LogisticBins, weights: Tensor, dim: int) -> Tensor:
    """The level, in the location's dtype, that has the largest mass in the mixture over `dim`, which stays, 1 long."""
    above = torch.ones_like(weights.narrow(dim, 0, 1))
    best, largest = torch.zeros_like(above), torch.zeros_like(above)
    for level, exceeding in enumerate([*bins.exceeding(), None]):
        rest = torch.zeros_like(above) if exceeding is None else (weights * exceeding).sum(dim, keepdim=True)
        mass = above - rest
        best = torch.where(mass > largest, level, best)
        largest, above = torch.maximum(mass, largest), rest
    return best
