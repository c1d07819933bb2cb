"""Closed-form denoisers as models: what the data's Gaussian, and what memorising, would score in a benchmark."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from lightning_gen.diffusion.bounds import VariationalBound
from lightning_gen.diffusion.denoisers import Denoiser, GaussianDenoiser, TrainingSetDenoiser
from lightning_gen.diffusion.module import GaussianDiffusion
from lightning_gen.diffusion.paths import GaussianPath
from lightning_gen.diffusion.samplers import DiffusionSampler
from lightning_gen.diffusion.schedules import NoiseSchedule


class OracleDiffusion(GaussianDiffusion):
    """A diffusion whose denoiser is computed from data, not learned: `initialize` on the training set makes it.

    A new oracle defines `fit`.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int | None,
        num_classes: int | None,
        schedule: NoiseSchedule | None = None,
        path: GaussianPath | None = None,
        sampler: DiffusionSampler | None = None,
        bound: VariationalBound | None = None,
    ) -> None:
        super().__init__(
            shape, levels, num_classes, lambda *_: nn.Identity(), schedule, path, sampler=sampler, bound=bound
        )
        self._denoiser: Denoiser | None = None

    @abstractmethod
    def fit(self, x0: Tensor) -> Denoiser:
        """The denoiser of data x0 [N, *shape]."""

    def initialize(self, x: Tensor, y: Tensor | None = None) -> None:
        self._denoiser = self.fit(self.decoder.encode(x))

    @property
    def denoiser(self) -> Denoiser:
        if self._denoiser is None:
            raise RuntimeError("an oracle knows nothing before `initialize` has shown it the training set")
        return self._denoiser


class GaussianOracle(OracleDiffusion):
    """As if the data were Gaussian with the training set's mean and covariance: the best linear denoiser."""

    def fit(self, x0: Tensor) -> Denoiser:
        return GaussianDenoiser.fit(x0, self.path)


class TrainingSetOracle(OracleDiffusion):
    """As if the training set were all the data there are: perfect memory."""

    def fit(self, x0: Tensor) -> Denoiser:
        return TrainingSetDenoiser(x0, self.path)
