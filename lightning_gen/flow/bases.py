"""What a flow's latents are distributed as: densities without parameters, independent over the dimensions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn.functional import logsigmoid

from lightning_gen.random_source import RandomSource

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class Base(ABC):
    """A new base defines its density and its samples. Learned means and scales are a layer's (`Elementwise`, `Split`)."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """[B], nats, of z [B, D]."""

    @abstractmethod
    def sample(self, num: int, dim: int, rng: RandomSource) -> Tensor:
        """[num, dim], float32; its mean is 0."""


class StandardNormal(Base):
    """N(0, I)."""

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * z.square().sum(1) - z.shape[1] * _HALF_LOG_TWO_PI

    def sample(self, num: int, dim: int, rng: RandomSource) -> Tensor:
        return rng.normal((num, dim))


class StandardLogistic(Base):
    """Independent logistic variables of scale 1, the prior of NICE (Dinh et al. 2015): its CDF is the sigmoid."""

    def log_prob(self, z: Tensor) -> Tensor:
        return logistic_log_prob(z).sum(1)

    def sample(self, num: int, dim: int, rng: RandomSource) -> Tensor:
        return logistic(rng, (num, dim))


def logistic(rng: RandomSource, shape: tuple[int, ...]) -> Tensor:
    """Standard logistic variates, finite."""
    tiny = 2.0**-25  # half a step of a uniform float32
    return (rng.uniform(shape) * (1 - 2 * tiny) + tiny).logit()


def logistic_log_prob(z: Tensor) -> Tensor:
    """Elementwise, nats; also the log-derivative of the sigmoid at z."""
    return logsigmoid(z) + logsigmoid(-z)
