"""How a network's output makes a denoiser: D(x, sigma) = skip x + out network(into x, ...)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gen.errors import UserError


class Scales(NamedTuple):
    """Of the input that is passed by the network, of its output and of its input, [B] each."""

    skip: Tensor
    out: Tensor
    into: Tensor


class Preconditioning(ABC):
    """A new one gives the scales at a noise level."""

    @abstractmethod
    def __call__(self, sigma: Tensor) -> Scales:
        """At sigma [B]."""


class Plain(Preconditioning):
    """D is the network: an autoencoder as it is in the books."""

    def __call__(self, sigma: Tensor) -> Scales:
        one = torch.ones_like(sigma)
        return Scales(0 * one, one, one)


class Preconditioned(Preconditioning):
    """The network's input and target have unit variance at every level, and its errors are made least (Karras et al. 2022).

    skip = d^2 / (sigma^2 + d^2), out = sigma d / sqrt(sigma^2 + d^2), into = 1 / sqrt(sigma^2 + d^2).

    Args:
        data_std: d, of the floats about 0; pixels in [-1, 1] have about 0.5.
    """

    def __init__(self, data_std: float = 0.5) -> None:
        if not 0 < data_std < math.inf:
            raise UserError(f"Preconditioned's data_std must be positive and finite, got {data_std}")
        self.data_std = data_std

    def __call__(self, sigma: Tensor) -> Scales:
        total = (sigma.square() + self.data_std**2).sqrt()
        return Scales(self.data_std**2 / total.square(), sigma * self.data_std / total, 1 / total)
