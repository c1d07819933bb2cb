"""What a model knows of its own doubt beside the mean: a learned reverse variance, or a record of its errors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_gen.broadcasting import broadcast
from lightning_gen.diffusion.parameterizations import Prediction, posterior_mean
from lightning_gen.diffusion.paths import NoiseLevel
from lightning_gen.diffusion.reverse_variances import LearnedRange, smallest
from lightning_gen.errors import UserError
from lightning_gen.exact_buffers import ExactBuffers
from lightning_gen.over_ranks import sum_over_ranks


class VarianceModel(ExactBuffers, ABC):
    """A new variance model defines `extend`, and what it learns from.

    `multiple` is how many output channels of the network it takes for each channel of the data, the mean's own included.
    """

    multiple: int = 1
    gives: str
    """The optional field of a Prediction that it fills."""

    of_a_chain: bool = False
    """Whether it is learned on the levels of a chain, which a learned schedule would move."""

    @abstractmethod
    def extend(self, prediction: Prediction, rest: Tensor | None, level: NoiseLevel) -> Prediction:
        """The prediction with what this model knows added; `rest` are the network's further channels."""

    def loss(self, x0: Tensor, prediction: Prediction, level: NoiseLevel) -> Tensor:
        """What it adds to the training loss at these levels, [B], from the extended prediction: if it has channels."""
        raise NotImplementedError

    def observe(self, noise_mse: Tensor, level: NoiseLevel) -> None:
        """Takes note of a training batch's mean squared error of the noise, [B] per dimension, no gradient."""


class LearnedVariance(VarianceModel):
    """Further outputs of the network say where each pixel's log variance lies between its bounds (Nichol & Dhariwal 2021).

    They are trained by the KL of the `steps`-step chain, in bits per dimension of the whole chain, with the mean held
    fixed: L_hybrid = L_simple + weight L_vlb (eq. 16).

    Args:
        steps: of the chain between t = 1 and t = 0; of a table of T betas, whose x_1 is t = 0, T - 1.
        weight: of the bound beside the mean's loss.
    """

    multiple = 2
    gives = "share"
    of_a_chain = True

    def __init__(self, steps: int = 1000, weight: float = 0.001) -> None:
        super().__init__()
        if steps < 2 or weight <= 0:
            raise UserError(f"LearnedVariance needs 2 steps or more and a positive weight, got {steps} and {weight}")
        self.steps, self.weight = steps, weight

    def extend(self, prediction: Prediction, rest: Tensor | None, level: NoiseLevel) -> Prediction:
        return prediction._replace(share=0.5 * (rest + 1))  # 0 out of a fresh network: half of the way

    def loss(self, x0: Tensor, prediction: Prediction, level: NoiseLevel) -> Tensor:
        to = level.earlier(1 / self.steps)
        prediction = prediction._replace(x0=prediction.x0.detach())
        variance = LearnedRange()(prediction, level, to)
        nats = reverse_kl(x0, prediction.x0, variance, level, to).flatten(1).mean(1)
        # the mean's loss has a factor 1/2 that eq. 16 has not
        return 0.5 * self.weight * self.steps * nats / math.log(2)


class TrackedVariance(VarianceModel):
    """Keeps the mean squared error of the noise along log-SNR as training goes on: Var(x0 | x_t) = sigma^2 / alpha^2 of it.

    For a perfect denoiser this is the estimate 1 - E|eps_hat|^2 of Bao et al. 2022 (eq. 8). The errors are those of training:
    of the raw weights, with dropout and dropped conditions, so somewhat larger than those of averaged weights. Means decay
    over about `memory` examples a bin, of all ranks; until a bin has met one, it takes Var(x0) for 1.

    Args:
        bins: of log-SNR.
        lowest, highest: log-SNR of the outermost bins, nats; below them Var(x0 | x_t) holds, above them the error.
        memory: examples.
    """

    gives = "variance"

    def __init__(self, bins: int = 64, lowest: float = -12.0, highest: float = 12.0, memory: int = 5000) -> None:
        super().__init__()
        if bins < 2 or not lowest < highest or memory < 1:
            raise UserError("TrackedVariance needs two bins or more, lowest < highest and a positive memory")
        self.bins, self.lowest, self.highest, self.memory = bins, lowest, highest, memory
        centres = torch.linspace(lowest, highest, bins)
        self.register_buffer("noise_mse", centres.exp().clamp(max=1.0))  # the more noise, the less it is mistaken for
        self.register_buffer("seen", torch.zeros(bins))

    def _place(self, logsnr: Tensor) -> Tensor:
        """Where log-SNR lies among the bins' centres, from 0 to bins - 1."""
        return ((logsnr.float() - self.lowest) / (self.highest - self.lowest)).clamp(0, 1) * (self.bins - 1)

    @torch.no_grad()
    def observe(self, noise_mse: Tensor, level: NoiseLevel) -> None:
        bin = self._place(level.logsnr).round().long()
        sums = torch.zeros(2, self.bins, device=bin.device)
        sums[0].index_add_(0, bin, torch.ones_like(noise_mse, dtype=torch.float32))
        sums[1].index_add_(0, bin, noise_mse.float())
        count, total = sum_over_ranks(sums)
        self.seen.add_(count).clamp_(max=self.memory)
        self.noise_mse.add_((total - count * self.noise_mse) / torch.maximum(self.seen, count).clamp(min=1))

    def extend(self, prediction: Prediction, rest: Tensor | None, level: NoiseLevel) -> Prediction:
        place = self._place(level.logsnr)
        below = place.floor().long().clamp(max=self.bins - 2)
        mse = torch.lerp(self.noise_mse[below], self.noise_mse[below + 1], place - below)
        variance = mse * torch.exp(-level.logsnr.float().clamp(min=self.lowest))
        return prediction._replace(variance=variance.to(prediction.x0.dtype))


def reverse_kl(x0: Tensor, x0_hat: Tensor, variance: Tensor, at: NoiseLevel, to: NoiseLevel) -> Tensor:
    """KL(q(x_to | x_at, x0) | N(mean at x0_hat, variance)) of every dimension, nats, of x0's shape.

    With FixedSmall it is 1/2 (exp(logsnr_to - logsnr_at) - 1) (eps - eps_hat)^2.
    """
    of_x0 = broadcast(posterior_mean(at, to)[1], x0)
    least = broadcast(smallest(at, to), x0)
    ratio = least / variance
    return 0.5 * ((of_x0 * (x0 - x0_hat)).square() / variance + ratio - 1 - ratio.log())
