"""Denoisers map (x, sigma) to E[x0 | x], where x = x0 + sigma eps: a network, and two closed forms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lightning_gen.broadcasting import broadcast
from lightning_gen.closed_forms import GaussianPosterior, TrainingSetPosterior
from lightning_gen.conditional import condition_or_null
from lightning_gen.dae.preconditioning import Preconditioning
from lightning_gen.networks.factory import checked
from lightning_gen.networks.layers import own_dtype


class Denoiser(ABC):
    """A new denoiser defines `__call__`."""

    @abstractmethod
    def __call__(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        """E[x0 | x], [B, ...] in x's dtype, at sigma [] or [B]; y the data's own (labels, embeddings), None for none."""


class NetworkDenoiser(Denoiser):
    """A network that is told the noise level as log-SNR = -2 log sigma.

    Args:
        network: called as network(x, logsnr, cond).
        preconditioning: what stands around it.
        conditioner: turns y into `cond`, or None for an unconditional network.
    """

    def __init__(
        self, network: nn.Module, preconditioning: Preconditioning, conditioner: nn.Module | None = None
    ) -> None:
        self.network, self.preconditioning, self.conditioner = network, preconditioning, conditioner

    def __call__(self, x: Tensor, sigma: Tensor, y: Tensor | None = None, drop: Tensor | None = None) -> Tensor:
        """`drop`, bool [B], replaces those rows' y by the null condition."""
        cond = condition_or_null(self.conditioner, y, x, drop)
        # The state keeps its dtype and log-SNR float32; the network runs in its own.
        sigma = sigma.float().expand(len(x))
        skip, out, into = (broadcast(scale.to(x.dtype), x) for scale in self.preconditioning(sigma))
        dtype = own_dtype(self.network, x.dtype)
        said = checked(self.network, self.network((into * x).to(dtype), -2 * sigma.log(), cond), tuple(x.shape))
        return skip * x + out * said.to(x.dtype)


class OptimalDenoiser(Denoiser):
    """The posterior-weighted mean of a training set: no denoiser has a smaller error on it (Alain and Bengio 2014).

    It is x + sigma^2 grad log p exactly, p being the mixture of a Gaussian around each example.

    Args:
        x: the training set, [N, ...].
        labels: [N] int64: y restricts the mean to the examples of that class. None for none.
        encode: turns examples into floats; None where they are floats.
    """

    def __init__(
        self, x: Tensor, labels: Tensor | None = None, encode: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.posterior = TrainingSetPosterior(x, labels, encode)

    def __call__(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        return self.posterior(x.flatten(1), 1.0, sigma, y).x0.reshape(x.shape)


class LinearDenoiser(Denoiser):
    """mean + C (C + sigma^2 I)^-1 (x - mean): no affine denoiser has a smaller error on data with that mean and covariance.

    Args:
        whole: of all data.
        classes: of the data of class k at place k; None where y does not matter.
    """

    def __init__(self, whole: GaussianPosterior, classes: Sequence[GaussianPosterior] | None = None) -> None:
        self.whole, self.classes = whole, classes

    def __call__(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None or self.classes is None:
            return self.whole(x.flatten(1), 1.0, sigma).x0.to(x.dtype).reshape(x.shape)
        out, sigma = torch.empty_like(x), sigma.expand(len(x))
        for k in y.unique().tolist():
            rows = y == k
            out[rows] = self.classes[k](x[rows].flatten(1), 1.0, sigma[rows]).x0.to(x.dtype).reshape(x[rows].shape)
        return out


class Informed(Denoiser):
    """A denoiser that knows part of x0: there its answer is the known values, and the score points to them.

    A sampler of it draws the rest given what is known (Kadkhodaie and Simoncelli 2021): the known part of its state is
    the known values under noise of each level in turn.

    Args:
        x0: [B, ...]; what stands in its holes is not looked at.
        mask: bool [B, ...], true where it is known.
    """

    def __init__(self, denoiser: Denoiser, x0: Tensor, mask: Tensor) -> None:
        self.denoiser, self.x0, self.mask = denoiser, x0, mask

    def __call__(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.where(self.mask, self.x0.to(x.dtype), self.denoiser(x, sigma, y))
