"""What the loss weighs: w(logsnr) of L = E_{t ~ p} [ 1/2 w (-dlogsnr/dt) / p(t) |eps - eps_hat|^2 ].

w = 1 is the ELBO (Kingma & Gao 2023). A weighting is a statement about log-SNR, in the noise's space; which network
output is regressed does not change it, so a column of parameterizations compares parameterizations alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from lightning_gen.diffusion.parameterizations import Parameterization
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.errors import UserError


class Weighting(ABC):
    """A new weighting defines `__call__`."""

    @abstractmethod
    def __call__(self, level: NoiseLevel, parameterization: Parameterization) -> Tensor:
        """w at this level, [B] or []."""


class Elbo(Weighting):
    """w = 1: the loss is the diffusion term of the ELBO."""

    def __call__(self, level: NoiseLevel, parameterization: Parameterization) -> Tensor:
        return torch.ones_like(level.logsnr)


class Simple(Weighting):
    """The plain mean squared error under uniform t: w = 1 / (-dlogsnr/dt), in a space the config names.

    Args:
        space: whose error is meant: "noise" (Ho et al. 2020's L_simple, whatever the network predicts) or "output"
            (the network's own output, as most codebases do; then w depends on the parameterization).
    """

    def __init__(self, space: Literal["noise", "output"] = "noise") -> None:
        if space not in ("noise", "output"):
            raise UserError(f"Simple's space is 'noise' or 'output', not {space!r}")
        self.space = space

    def __call__(self, level: NoiseLevel, parameterization: Parameterization) -> Tensor:
        gain = parameterization.output_gain(level).square() if self.space == "output" else 1.0
        return -gain / level.dlogsnr_dt


class SNR(Weighting):
    """The mean squared error of x0 times SNR, under uniform t: the simple loss in another dress (Salimans & Ho 2022).

    SNR |x0 - x0_hat|^2 = |eps - eps_hat|^2 for every network, so this is `Simple(space="noise")`: named for the papers.
    """

    def __call__(self, level: NoiseLevel, parameterization: Parameterization) -> Tensor:
        return -1 / level.dlogsnr_dt


class MinSNR(Weighting):
    """min(SNR, gamma) on the x0 error under uniform t (Hang et al. 2023).

    In the noise's space the factor is min(SNR, gamma) / SNR; for v on a VP path it is min(SNR, gamma) / (SNR + 1).
    """

    def __init__(self, gamma: float = 5.0) -> None:
        if gamma <= 0:
            raise UserError(f"MinSNR's gamma must be positive, got {gamma}")
        self.gamma = gamma

    def __call__(self, level: NoiseLevel, parameterization: Parameterization) -> Tensor:
        return torch.clamp(self.gamma * torch.exp(-level.logsnr), max=1.0) / -level.dlogsnr_dt
