"""Priors over the latents of a VAE."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource
from lightning_gen.vae.gaussians import DiagonalGaussian, Gaussian, bounded, precise, standard_log_prob

Encode = Callable[[Tensor], Gaussian]
"""x as the encoder sees it, [N, *shape] -> q(z | x)."""


class PriorDistribution(ABC):
    """p(z) at the weights as they are."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """[K, B] nats of z [K, B, d]."""

    @abstractmethod
    def sample(self, num: int, rng: RandomSource, temperature: float) -> Tensor:
        """[num, d]; standard deviations are scaled by `temperature`."""

    def kl(self, posterior: Gaussian) -> Tensor | None:
        """KL(posterior || this), [B, n] nats in n parts that add up; None where there is no closed form."""
        return None


class Prior(nn.Module, ABC):
    """A new prior defines `at`, and `bind` where it has weights.

    Attributes:
        needs_encoder: whether it is made of posteriors, which a conditional encoder cannot give without a condition.
    """

    needs_encoder = False

    def bind(self, dim: int, shape: tuple[int, ...]) -> None:
        """Makes its weights, for d latent dimensions and data of this shape. Called once."""

    @abstractmethod
    def at(self, encode: Encode) -> PriorDistribution:
        """The distribution at the weights as they are."""

    def initialize(self, encoded: Tensor) -> None:
        """A start from data as the encoder sees them, [B, *shape]."""


class StandardNormal(Prior, PriorDistribution):
    """N(0, I)."""

    def bind(self, dim: int, shape: tuple[int, ...]) -> None:
        self.dim = dim

    def at(self, encode: Encode) -> PriorDistribution:
        return self

    def log_prob(self, z: Tensor) -> Tensor:
        return standard_log_prob(z)

    def sample(self, num: int, rng: RandomSource, temperature: float) -> Tensor:
        return temperature * rng.normal((num, self.dim))

    def kl(self, posterior: Gaussian) -> Tensor:
        return posterior.kl_to_standard()


class Mixture(PriorDistribution):
    """Gaussians [M, d] with log-weights [M]."""

    def __init__(self, components: Gaussian, log_weights: Tensor) -> None:
        self.components, self.log_weights = components, log_weights

    def log_prob(self, z: Tensor) -> Tensor:
        # every sample [K B, 1, d] under every component [M, d], a block of samples at a time by what it takes
        flat = z.flatten(0, 1)
        parts = [self.components.log_prob(part[:, None]) for part in flat.split(max(1, (1 << 24) // self._size))]
        return torch.logsumexp(torch.cat(parts) + self.log_weights, 1).view(z.shape[:2])

    @property
    def _size(self) -> int:
        return max(1, sum(p.numel() for p in self.components.parameters()))

    def sample(self, num: int, rng: RandomSource, temperature: float) -> Tensor:
        share = self.log_weights.double().softmax(0).cumsum(0)
        u = rng.uniform((num,), dtype=torch.float64).to(share.device)
        chosen = torch.searchsorted(share, u, right=True).clamp(max=len(share) - 1)
        eps = rng.normal((num, self.components.mean.shape[1]))
        one = self.components.with_parameters(*(p[chosen] for p in self.components.parameters()))
        return one.mean + temperature * (one.sample(eps.to(one.mean.dtype)[None])[0] - one.mean)


class GaussianMixture(Prior):
    """Learned diagonal Gaussians with learned weights.

    Args:
        components: M.
    """

    def __init__(self, components: int = 100) -> None:
        super().__init__()
        _check(components)
        self.components = components

    def bind(self, dim: int, shape: tuple[int, ...]) -> None:
        # apart from each other, and together about N(0, I): equal components would stay equal
        self.mean = nn.Parameter(torch.randn(self.components, dim))
        self.log_std = nn.Parameter(torch.zeros(self.components, dim))
        self.logits = nn.Parameter(torch.zeros(self.components))

    def at(self, encode: Encode) -> PriorDistribution:
        components = DiagonalGaussian(precise(self.mean), bounded(precise(self.log_std)))
        return Mixture(components, precise(self.logits).log_softmax(0))


class VampPrior(Prior):
    """The mean posterior of learned pseudo-inputs, 1/M sum_m q(z | u_m) (Tomczak and Welling 2018, eq. 10).

    `initialize` takes pseudo-inputs from the data.

    Args:
        components: M.
    """

    needs_encoder = True

    def __init__(self, components: int = 500) -> None:
        super().__init__()
        _check(components)
        self.components = components

    def bind(self, dim: int, shape: tuple[int, ...]) -> None:
        self.inputs = nn.Parameter(0.05 * torch.randn(self.components, *shape))

    @torch.no_grad()
    def initialize(self, encoded: Tensor) -> None:
        rows = torch.arange(self.components, device=encoded.device) % len(encoded)
        self.inputs.add_(encoded[rows])  # repeated ones differ by the noise they began with

    def at(self, encode: Encode) -> PriorDistribution:
        components = encode(self.inputs)
        return Mixture(components, components.mean.new_full((self.components,), -math.log(self.components)))


def _check(components: int) -> None:
    if components < 1:
        raise UserError(f"a mixture has at least one component, not {components}: set the prior's components")
