"""Gaussians over latents, and what an encoder says of them: q(z | x) for a whole batch.

Samples have a dimension of their own in front: z is [K, B, *latent] for K samples of each of B examples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from lightning_gen.errors import UserError
from lightning_gen.networks.factory import MAP, checked
from lightning_gen.networks.layers import own_dtype

LOG_STD = 7.0
"""Log standard deviations stay within -7 and 7, softly: exp of what a network says before it is trained may overflow."""

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def bounded(log_std: Tensor) -> Tensor:
    """`log_std` squeezed into (-LOG_STD, LOG_STD); near 0 it is what it was."""
    return LOG_STD * torch.tanh(log_std / LOG_STD)


class Gaussian(ABC):
    """N(mean, covariance) for each example of a batch.

    Attributes:
        mean: [B, *latent].
    """

    mean: Tensor

    @abstractmethod
    def sample(self, eps: Tensor) -> Tensor:
        """z [K, B, *latent] from standard normal eps of that shape, differentiable in the parameters."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """[K, B] nats of z [K, B, *latent]."""

    @abstractmethod
    def kl_to_standard(self) -> Tensor:
        """KL(this || N(0, I)), [B, n] nats: n parts that add up, a dimension each where it splits so, else one."""

    @abstractmethod
    def parameters(self) -> tuple[Tensor, ...]:
        """What it is made of, each [B, ...], as `with_parameters` takes them."""

    def with_parameters(self, *parameters: Tensor) -> Gaussian:
        return type(self)(*parameters)

    def detach(self) -> Gaussian:
        """The same, through which no gradient goes."""
        return self.with_parameters(*(p.detach() for p in self.parameters()))


@dataclass(frozen=True)
class DiagonalGaussian(Gaussian):
    """Independent dimensions. mean, log_std: [B, *latent]."""

    mean: Tensor
    log_std: Tensor

    def sample(self, eps: Tensor) -> Tensor:
        return torch.addcmul(self.mean, eps, self.log_std.exp())

    def log_prob(self, z: Tensor) -> Tensor:
        white = (z - self.mean) * torch.exp(-self.log_std)
        constant = self.log_std.flatten(1).sum(1) + self.log_std[0].numel() * _HALF_LOG_2PI
        return -0.5 * white.square().flatten(2).sum(2) - constant

    def kl_to_standard(self) -> Tensor:
        return (0.5 * (self.mean.square() + torch.exp(2 * self.log_std) - 1) - self.log_std).flatten(1)

    def kl_to(self, other: DiagonalGaussian) -> Tensor:
        """KL(this || other), [B, n] nats, a dimension each."""
        ratio = torch.exp(2 * (self.log_std - other.log_std))
        apart = (self.mean - other.mean) * torch.exp(-other.log_std)
        return (0.5 * (apart.square() + ratio - 1) - (self.log_std - other.log_std)).flatten(1)

    def parameters(self) -> tuple[Tensor, ...]:
        return self.mean, self.log_std


@dataclass(frozen=True)
class FullGaussian(Gaussian):
    """Any covariance L L^T, where L has a positive diagonal: its logarithm is a parameter, and so is what stands below it.

    mean, log_diagonal: [B, d]; below: [B, d (d - 1) / 2], row by row.
    """

    mean: Tensor
    log_diagonal: Tensor
    below: Tensor

    @cached_property
    def scale_tril(self) -> Tensor:
        """L, [B, d, d]."""
        dim = self.mean.shape[1]
        place = torch.tril_indices(dim, dim, -1, device=self.mean.device)
        factor = torch.diag_embed(self.log_diagonal.exp())
        return factor.index_put((torch.arange(len(factor), device=factor.device)[:, None], *place), self.below)

    def sample(self, eps: Tensor) -> Tensor:
        # no matrix product: under autocast that would be of another posterior than the density is
        return self.mean + (self.scale_tril * eps[..., None, :]).sum(-1)

    def log_prob(self, z: Tensor) -> Tensor:
        white = torch.linalg.solve_triangular(self.scale_tril, (z - self.mean)[..., None], upper=False).squeeze(-1)
        return -0.5 * white.square().sum(2) - self.log_diagonal.sum(1) - z.shape[2] * _HALF_LOG_2PI

    def kl_to_standard(self) -> Tensor:
        square = self.mean.square().sum(1) + self.scale_tril.square().sum((1, 2))
        return (0.5 * (square - self.mean.shape[1]) - self.log_diagonal.sum(1))[:, None]

    def parameters(self) -> tuple[Tensor, ...]:
        return self.mean, self.log_diagonal, self.below


class PosteriorForm(ABC):
    """Which Gaussian an encoder's output means. A new form says how many features it takes, and of what."""

    splits: bool
    """Whether its divergence from N(0, I) is a sum over dimensions."""

    @abstractmethod
    def features(self, dim: int) -> int:
        """How many the encoder gives for d latent dimensions."""

    @abstractmethod
    def __call__(self, out: Tensor) -> Gaussian:
        """q(z | x) from the encoder's output [B, features]."""


class Diagonal(PosteriorForm):
    """Means and log standard deviations (Kingma and Welling 2014)."""

    splits = True

    def features(self, dim: int) -> int:
        return 2 * dim

    def __call__(self, out: Tensor) -> DiagonalGaussian:
        mean, log_std = out.chunk(2, dim=1)
        return DiagonalGaussian(mean, bounded(log_std))


class FullCovariance(PosteriorForm):
    """Means and a Cholesky factor, d (d + 3) / 2 features: for small latents (Kingma and Welling 2019, sec. 2.5.1).

    Args:
        max_dim: more latent dimensions are refused: the factor grows with their square.
    """

    splits = False

    def __init__(self, max_dim: int = 64) -> None:
        self.max_dim = max_dim

    def features(self, dim: int) -> int:
        if dim > self.max_dim:
            raise UserError(
                f"a full covariance of {dim} dimensions takes {dim * (dim + 3) // 2} features: choose the posterior "
                f"Diagonal, or a max_dim of at least {dim}"
            )
        return dim * (dim + 3) // 2

    def __call__(self, out: Tensor) -> FullGaussian:
        dim = round((math.sqrt(9 + 8 * out.shape[1]) - 3) / 2)
        mean, log_diagonal, below = out.split((dim, dim, out.shape[1] - 2 * dim), dim=1)
        return FullGaussian(mean, bounded(log_diagonal), below)


def standard_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I), [K, B] nats, of z [K, B, *latent]."""
    return -0.5 * z.square().flatten(2).sum(2) - z[0, 0].numel() * _HALF_LOG_2PI


def asked(network: nn.Module, x: Tensor, cond: Tensor | None) -> Tensor:
    """network(x, cond) in the dtype of its weights (and under autocast, if that is on), back in float32 or float64."""
    dtype = own_dtype(network, x.dtype)
    out = network(x.to(dtype), None if cond is None else cond.to(dtype))
    return precise(checked(network, out, (len(x), *getattr(network, "out_shape", out.shape[1:])), MAP))


def precise(x: Tensor) -> Tensor:
    """In float32, or in float64 where it is already: densities in bfloat16 are off by tenths of nats."""
    return x if x.dtype == torch.float64 else x.float()
