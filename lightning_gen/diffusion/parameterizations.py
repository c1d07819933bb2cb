"""What the network predicts: out = a x0 + b eps, one linear map at each noise level.

All are one model: E[x0 | x_t], E[eps | x_t] and the score grad log q(x_t) = -E[eps | x_t] / sigma determine each other
(Tweedie's formula), and so does every combination that is not parallel to x_t itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gen.broadcasting import broadcast
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.errors import UserError


class Prediction(NamedTuple):
    """What a denoiser says of x_t: E[x0 | x_t] and E[eps | x_t], of x_t's shape, tied by x_t = alpha x0 + sigma eps.

    Attributes:
        variance: Var(x0 | x_t), mean over the dimensions ([] or [B]), where it is known.
        share: of the way in log variance from the reverse step's smallest to its largest, of x_t's shape, where a
            network has learned it (Nichol & Dhariwal 2021, eq. 15).
    """

    x0: Tensor
    eps: Tensor
    variance: Tensor | None = None
    share: Tensor | None = None


class Parameterization(ABC):
    """A new parameterization defines `coefficients`."""

    of_a_chain: bool = False
    """Whether it depends on the levels of a chain, which a learned schedule would move."""

    @abstractmethod
    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(a, b) of out = a x0 + b eps, each [B] or []."""

    def target(self, x0: Tensor, eps: Tensor, level: NoiseLevel) -> Tensor:
        """What the network should output, of x0's shape."""
        a, b = self.coefficients(level)
        return broadcast(a, x0) * x0 + broadcast(b, x0) * eps

    def input_scale(self, level: NoiseLevel) -> Tensor | None:
        """What x_t is multiplied by before the network sees it, [B] or []; None leaves it to the path."""
        return None

    def output_gain(self, level: NoiseLevel) -> Tensor:
        """d out / d eps at fixed x_t: b - a sigma / alpha. An error of eps_hat times this is the error of the output."""
        a, b = self.coefficients(level)
        return b - a * level.sigma / level.alpha

    def to_prediction(self, out: Tensor, x_t: Tensor, level: NoiseLevel) -> Prediction:
        """Solves [alpha sigma; a b] (x0, eps) = (x_t, out), both unknowns by one 2x2 inverse.

        `singular_at` tells beforehand where there is no solution; `GaussianDiffusion.check` refuses it.
        """
        a, b = self.coefficients(level)
        determinant = level.alpha * b - level.sigma * a
        inverse = [broadcast(c / determinant, x_t) for c in (b, level.sigma, level.alpha, a)]
        return Prediction(inverse[0] * x_t - inverse[1] * out, inverse[2] * out - inverse[3] * x_t)

    def singular_at(self, level: NoiseLevel, tolerance: float = 1e-4) -> bool:
        """Whether the 2x2 system loses x0 or eps: |alpha b - sigma a| small beside the size of its rows."""
        a, b = self.coefficients(level)
        rows = torch.hypot(level.alpha, level.sigma) * torch.hypot(a, b)
        return bool(((level.alpha * b - level.sigma * a).abs() <= tolerance * rows).any())


class NoisePrediction(Parameterization):
    """out = eps (Ho et al. 2020)."""

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(level.alpha), torch.ones_like(level.alpha)


class DataPrediction(Parameterization):
    """out = x0."""

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return torch.ones_like(level.alpha), torch.zeros_like(level.alpha)


class VPrediction(Parameterization):
    """out = v = alpha eps - sigma x0 (Salimans & Ho 2022)."""

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return -level.sigma, level.alpha


class VelocityPrediction(Parameterization):
    """out = dx_t/dt along the path, with t in [0, 1] between the schedule's end points.

    On the linear path with the flow-matching schedule it is eps - x0, up to the constant by which the truncation
    shortens time (Lipman et al. 2023).
    """

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return level.dalpha_dt, level.dsigma_dt


class ScorePrediction(Parameterization):
    """out = grad log q(x_t) = -eps / sigma (Song & Ermon 2019)."""

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(level.alpha), -1 / level.sigma


class MeanPrediction(Parameterization):
    """out = the mean of q(x_s | x_t, x0), s = t - 1/steps (Ho et al. 2020, eq. 7): their other choice, before the noise.

    Args:
        steps: of the chain between t = 1 and t = 0 whose means are meant (of a table of T betas T - 1); the more, the closer
            out is to x_t and the worse x0 is known from it.
    """

    of_a_chain = True

    def __init__(self, steps: int = 1000) -> None:
        if steps < 2:
            raise UserError(f"MeanPrediction needs at least two steps, got {steps}")
        self.steps = steps

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        of_x_t, of_x0 = posterior_mean(level, level.earlier(1 / self.steps))
        return of_x_t * level.alpha + of_x0, of_x_t * level.sigma


class EDMPrediction(Parameterization):
    """out = F of x0 = c_skip x + c_out F(c_in x), x = x_t / alpha of noise s = sigma / alpha (Karras et al. 2022, table 1).

    c_skip = d^2 / (s^2 + d^2), c_out = s d / sqrt(s^2 + d^2), c_in = 1 / sqrt(s^2 + d^2), d the data's standard deviation:
    input and target have unit variance at every level, on any path. With d = 1 it is -v of a VP path.

    Args:
        data_std: d; pixels in [-1, 1] have about 0.5.
    """

    def __init__(self, data_std: float = 0.5) -> None:
        if data_std <= 0:
            raise UserError(f"EDMPrediction's data_std must be positive, got {data_std}")
        self.data_std = data_std

    def input_scale(self, level: NoiseLevel) -> Tensor | None:
        return 1 / torch.hypot(self.data_std * level.alpha, level.sigma)

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        length = torch.hypot(self.data_std * level.alpha, level.sigma)
        return level.sigma / (self.data_std * length), -self.data_std * level.alpha / length


def posterior_mean(at: NoiseLevel, to: NoiseLevel) -> tuple[Tensor, Tensor]:
    """(f, g) of the mean f x_at + g x0 of q(x_to | x_at, x0), [] or [B] each (Kingma et al. 2021, app. A).

    With c = 1 - exp(logsnr_at - logsnr_to), g = alpha_to c and the variance is sigma_to^2 c. `expm1` keeps small steps.
    """
    c = -torch.expm1(at.logsnr - to.logsnr)
    return (at.alpha / to.alpha) * (to.sigma / at.sigma).square(), to.alpha * c
