"""Monotone functions of single numbers, whose parameters a network or a layer supplies."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_gen.errors import UserError


class Transform(ABC):
    """x -> z, strictly increasing; with all parameters zero the identity, so that a new flow starts as one.

    Attributes:
        features: parameters of each number.
    """

    features: int

    @abstractmethod
    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, *], params [B, features, *] -> z and log dz/dx, of x's shape."""

    @abstractmethod
    def inverse(self, z: Tensor, params: Tensor) -> Tensor:
        """The x with forward(x) = z."""


class Additive(Transform):
    """z = x + t (Dinh et al. 2015, NICE): volumes stay as they are."""

    features = 1

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return x + params[:, 0], torch.zeros_like(x)

    def inverse(self, z: Tensor, params: Tensor) -> Tensor:
        return z - params[:, 0]


class Affine(Transform):
    """z = x exp(s) + t (Dinh et al. 2017, eq. 7), with s = bound tanh(raw / bound): no scale beyond exp(+-bound).

    Args:
        bound: of |s|; None for s = raw.
    """

    features = 2

    def __init__(self, bound: float | None = 3.0) -> None:
        if bound is not None and bound <= 0:
            raise UserError(f"the bound of an affine transform's log-scale must be positive, not {bound}")
        self.bound = bound

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._read(params)
        return torch.addcmul(shift, x, log_scale.exp()), log_scale

    def inverse(self, z: Tensor, params: Tensor) -> Tensor:
        shift, log_scale = self._read(params)
        return (z - shift) * (-log_scale).exp()

    def _read(self, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = params.unbind(1)
        return shift, raw if self.bound is None else self.bound * torch.tanh(raw / self.bound)
