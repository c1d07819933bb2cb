"""What the loss weighs: w(logsnr) of L = E_{t ~ p} [ 1/2 w (-dlogsnr/dt) / p(t) |eps - eps_hat|^2 ].

w = 1 is the ELBO (Kingma & Gao 2023). A weighting is a statement about log-SNR, in the noise's space; which network
output is regressed does not change it, so a column of parameterizations compares parameterizations alone. The papers
write most of them as a factor of some error under uniform t: those are divided by -dlogsnr/dt here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_gen.diffusion.parameterizations import Parameterization
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.diffusion.time_samplers import TimeSampler
from lightning_gen.errors import UserError


class Weighting(ABC):
    """A new weighting defines `__call__`."""

    @abstractmethod
    def __call__(self, level: NoiseLevel, parameterization: Parameterization) -> Tensor:
        """w at this level, [B] or []."""

    def objective(self, loss: Tensor, level: NoiseLevel) -> Tensor:
        """What is minimised, [B], given the weighted losses [B]: they themselves."""
        return loss


class Elbo(Weighting):
    """w = 1: the loss is the diffusion term of the ELBO."""

    def __call__(self, level: NoiseLevel, parameterization: Parameterization) -> Tensor:
        return torch.ones_like(level.logsnr)


class Simple(Weighting):
    """The plain mean squared error: w = p(t) / (-dlogsnr/dt), in a space and under times that the config names.

    Args:
        space: whose error is meant: "noise" (Ho et al. 2020's L_simple, whatever the network predicts) or "output"
            (the network's own output, as most codebases do; then w depends on the parameterization).
        under: the times under which the error is plain; uniform ones if None.
    """

    def __init__(self, space: Literal["noise", "output"] = "noise", under: TimeSampler | None = None) -> None:
        if space not in ("noise", "output"):
            raise UserError(f"Simple's space is 'noise' or 'output', not {space!r}")
        if under is not None and under.follows_losses:
            raise UserError(f"an error cannot be plain under {type(under).__name__}, whose times follow the losses")
        self.space, self.under = space, under

    def __call__(self, level: NoiseLevel, parameterization: Parameterization) -> Tensor:
        gain = parameterization.output_gain(level).square() if self.space == "output" else 1.0
        density = self.under.density(level) if self.under is not None else 1.0
        return gain * density / -level.dlogsnr_dt


class SNR(Weighting):
    """SNR on the x0 error under uniform t (Salimans & Ho 2022, sec. 4).

    SNR |x0 - x0_hat|^2 = |eps - eps_hat|^2 for every network, so this is `Simple(space="noise")`: named for the papers.
    """

    def __call__(self, level: NoiseLevel, parameterization: Parameterization) -> Tensor:
        return -1 / level.dlogsnr_dt


class TruncatedSNR(Weighting):
    """max(SNR, 1) on the x0 error under uniform t (Salimans & Ho 2022, sec. 4): the noisy end counts too."""

    def __call__(self, level: NoiseLevel, parameterization: Parameterization) -> Tensor:
        return torch.exp(-level.logsnr).clamp(min=1.0) / -level.dlogsnr_dt


class SNRPlusOne(Weighting):
    """SNR + 1 on the x0 error under uniform t: on a VP path the plain error of v (Salimans & Ho 2022, sec. 4)."""

    def __call__(self, level: NoiseLevel, parameterization: Parameterization) -> Tensor:
        return (1 + torch.exp(-level.logsnr)) / -level.dlogsnr_dt


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


class P2(Weighting):
    """1 / (k + SNR)^gamma on the noise's error under uniform t (Choi et al. 2022, eq. 8)."""

    def __init__(self, gamma: float = 1.0, k: float = 1.0) -> None:
        if gamma < 0 or k <= 0:
            raise UserError(f"P2's gamma must not be negative and its k positive, got {gamma} and {k}")
        self.gamma, self.k = gamma, k

    def __call__(self, level: NoiseLevel, parameterization: Parameterization) -> Tensor:
        # (k + e^l)^-gamma by logarithms: e^l may be beyond float32's square
        log_sum = torch.logaddexp(torch.full_like(level.logsnr, math.log(self.k)), level.logsnr)
        return torch.exp(-self.gamma * log_sum) / -level.dlogsnr_dt


class SigmoidWeighting(Weighting):
    """w = sigmoid(bias - logsnr), whatever the schedule (Kingma & Gao 2023, their best with bias 2; Hoogeboom et al. 2025)."""

    def __init__(self, bias: float = 2.0) -> None:
        self.bias = bias

    def __call__(self, level: NoiseLevel, parameterization: Parameterization) -> Tensor:
        return torch.sigmoid(self.bias - level.logsnr)


class EDMWeighting(Weighting):
    """w = N(logsnr; mean, std^2) (exp(-logsnr) + data_std^2) (Karras et al. 2022 in the form of Kingma & Gao 2023, table 1).

    With `EDMPrediction` and its own times, `LogNormal(-mean / 2, std / 2)`, the loss is data_std^2 / 2 times the plain error
    of F.

    Args:
        mean, std: of log-SNR, nats: the paper's log sigma ~ N(-1.2, 1.2^2).
        data_std: of x0.
    """

    def __init__(self, mean: float = 2.4, std: float = 2.4, data_std: float = 0.5) -> None:
        if std <= 0 or data_std <= 0:
            raise UserError(f"EDMWeighting's std and data_std must be positive, got {std} and {data_std}")
        self.mean, self.std, self.data_std = mean, std, data_std

    def __call__(self, level: NoiseLevel, parameterization: Parameterization) -> Tensor:
        z = (level.logsnr - self.mean) / self.std
        density = torch.exp(-0.5 * z.square()) / (self.std * math.sqrt(2 * math.pi))
        return density * (torch.exp(-level.logsnr) + self.data_std**2)


class LearnedUncertainty(nn.Module, Weighting):
    """Minimises loss / exp(u) + u with u(logsnr) learned: every level counts by its own doubt (Karras et al. 2024, eq. 15).

    u is linear in cosines of log-SNR. The mean is over the times that are drawn, as published: at its optimum exp(u) is the
    weighted loss over p(t) at that level, which makes the gradients of all drawn levels alike whatever `base` is. So here,
    and only here, the times are part of what is minimised; they must not follow the losses themselves.

    Args:
        base: the weighting of the loss within.
        features: cosines.
    """

    def __init__(self, base: Weighting | None = None, features: int = 128) -> None:
        super().__init__()
        if features < 1:
            raise UserError(f"LearnedUncertainty needs at least one feature, got {features}")
        self.base, self.features = base or Simple(), features
        # fixed frequencies and phases, the same in every run: quantiles of a normal, and a golden-ratio sequence
        steps = torch.arange(features, dtype=torch.float64)
        frequencies = torch.special.ndtri((steps + 0.5) / features) / 2
        self.register_buffer("frequencies", frequencies.float(), persistent=False)
        self.register_buffer("phases", (2 * math.pi * (steps * 0.6180339887498949 % 1)).float(), persistent=False)
        self.weight = nn.Parameter(torch.zeros(features))
        self.bias = nn.Parameter(torch.zeros(()))

    def __call__(self, level: NoiseLevel, parameterization: Parameterization) -> Tensor:
        return self.base(level, parameterization)

    def log_variance(self, logsnr: Tensor) -> Tensor:
        """u at log-SNR [B], nats."""
        waves = torch.cos(logsnr.float()[:, None] * self.frequencies + self.phases)
        return waves @ self.weight / math.sqrt(0.5 * self.features) + self.bias

    def objective(self, loss: Tensor, level: NoiseLevel) -> Tensor:
        u = self.log_variance(level.logsnr)
        return loss * torch.exp(-u) + u
