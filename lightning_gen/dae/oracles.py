"""Closed-form denoisers as models: what the best memory, and the best linear autoencoder, would make of the training set."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from lightning_gen.closed_forms import GaussianPosterior
from lightning_gen.dae.denoisers import Denoiser, LinearDenoiser, OptimalDenoiser
from lightning_gen.dae.module import DenoisingAutoencoder
from lightning_gen.dae.noises import LogUniformNoise, Noise
from lightning_gen.dae.samplers import Sampler
from lightning_gen.errors import UserError


class ClosedFormDAE(DenoisingAutoencoder):
    """An autoencoder that is computed from data, not learned: `initialize` on the training set makes it.

    A new one defines `fit`. It knows every noise level; `noise` says where its samplers go and its loss is taken.

    Args:
        noise: levels; a wide range by default.
        sampler: how samples are drawn by default.
        conditional: know E[x0 | x, y] of labelled data too.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int | None,
        num_classes: int | None,
        noise: Noise | None = None,
        sampler: Sampler | None = None,
        conditional: bool = False,
    ) -> None:
        self._conditional = conditional and num_classes is not None
        noise = noise or LogUniformNoise()
        super().__init__(shape, levels, num_classes, nn.Identity, noise, sampler=sampler)
        self._denoiser: Denoiser | None = None

    def build(self) -> None:
        self.network = nn.Identity()  # unused: the denoiser is a closed form

    @property
    def conditional(self) -> bool:
        return self._conditional

    def check_level(self, sigma: Tensor) -> None:
        if not ((sigma > 0) & sigma.isfinite()).all():
            raise UserError("sigma, the noise level at which a denoiser is asked, must be positive and finite")

    @abstractmethod
    def fit(self, x: Tensor, labels: Tensor | None) -> Denoiser:
        """The denoiser of data x [N, *shape] in their own domain, with their labels [N] if it is to be conditional."""

    def initialize(self, x: Tensor, y: Tensor | None = None) -> None:
        """
        Raises:
            UserError: to be conditional, data without labels, or without examples of a class.
        """
        if self.conditional:
            absent = set(range(self.num_classes)).difference([] if y is None else y.unique().tolist())
            if absent:
                raise UserError(
                    f"{type(self).__name__} cannot be conditional: the data have no example of class {min(absent)}"
                )
        self._denoiser = self.fit(x, y if self.conditional else None)

    @property
    def denoiser(self) -> Denoiser:
        if self._denoiser is None:
            raise RuntimeError("a closed form knows nothing before `initialize` has shown it the training set")
        return self._denoiser

    def reconstruct(self, noisy: Tensor, sigma: Tensor, y: Tensor | None) -> Tensor:
        return self.denoiser(noisy, sigma, y if self.conditional else None)


class OptimalDAE(ClosedFormDAE):
    """As if the training set were all the data there are: its images are the attractors, and its samples.

    The training set stays as it is given, a byte a pixel.
    """

    def fit(self, x: Tensor, labels: Tensor | None) -> Denoiser:
        return OptimalDenoiser(x, labels, self.domain.encode)


class LinearDAE(ClosedFormDAE):
    """The best affine denoiser of the training set, C (C + sigma^2 I)^-1 about its mean; PCA's projector as sigma goes to 0.

    Args:
        rank: of the bottleneck; None for none.

    Raises:
        UserError: for a rank that is not between 1 and the number of dimensions.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int | None,
        num_classes: int | None,
        rank: int | None = None,
        noise: Noise | None = None,
        sampler: Sampler | None = None,
        conditional: bool = False,
    ) -> None:
        dim = torch.Size(shape).numel()
        if rank is not None and not 1 <= rank <= dim:
            raise UserError(f"LinearDAE's rank lies between 1 and the {dim} dimensions of the data, got {rank}")
        self.rank = rank
        super().__init__(shape, levels, num_classes, noise, sampler, conditional)

    def fit(self, x: Tensor, labels: Tensor | None) -> Denoiser:
        if labels is None:
            return LinearDenoiser(self._posterior(x))
        classes = [self._posterior(x[labels == k]) for k in range(self.num_classes)]
        return LinearDenoiser(self._posterior(x), classes)

    def _posterior(self, x: Tensor) -> GaussianPosterior:
        posterior = GaussianPosterior.fit(x, self.domain.encode)
        return posterior if self.rank is None else posterior.truncated(self.rank)
