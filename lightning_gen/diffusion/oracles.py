"""Closed-form denoisers as models: what the data's Gaussian, and what memorising, would score in a benchmark."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection

from torch import Tensor, nn

from lightning_gen.diffusion.bounds import LikelihoodEstimator
from lightning_gen.diffusion.denoisers import ByClass, Denoiser, GaussianDenoiser, TrainingSetDenoiser
from lightning_gen.diffusion.module import GaussianDiffusion
from lightning_gen.diffusion.paths import GaussianPath
from lightning_gen.diffusion.samplers import Sampler
from lightning_gen.diffusion.schedules import NoiseSchedule


class OracleDiffusion(GaussianDiffusion):
    """A diffusion whose denoiser is computed from data, not learned: `initialize` on the training set makes it.

    A new oracle defines `fit`.

    Args:
        conditional: know p(x | y) of labelled data too, and be guided by it.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        levels: int | None,
        num_classes: int | None,
        schedule: NoiseSchedule | None = None,
        path: GaussianPath | None = None,
        sampler: Sampler | None = None,
        bound: LikelihoodEstimator | None = None,
        conditional: bool = False,
    ) -> None:
        self._conditional = conditional and num_classes is not None
        super().__init__(shape, levels, num_classes, nn.Identity, schedule, path, sampler=sampler, bound=bound)
        self._denoiser: Denoiser | None = None

    def build(self) -> None:
        self.network = nn.Identity()  # unused: the denoiser is a closed form

    @property
    def knows(self) -> Collection[str]:
        return ("variance",)

    @property
    def conditional(self) -> bool:
        return self._conditional

    @abstractmethod
    def fit(self, x0: Tensor, labels: Tensor | None) -> Denoiser:
        """The denoiser of data x0 [N, *shape], with their labels [N] if it is to be conditional."""

    def initialize(self, x: Tensor, y: Tensor | None = None) -> None:
        self._denoiser = self.fit(self.decoder.encode(x), y if self.conditional else None)

    @property
    def denoiser(self) -> Denoiser:
        if self._denoiser is None:
            raise RuntimeError("an oracle knows nothing before `initialize` has shown it the training set")
        return self._denoiser


class GaussianOracle(OracleDiffusion):
    """As if the data were Gaussian with the training set's mean and covariance: the best linear denoiser."""

    def fit(self, x0: Tensor, labels: Tensor | None) -> Denoiser:
        whole = GaussianDenoiser.fit(x0, self.path)
        if labels is None:
            return whole
        return ByClass(whole, [GaussianDenoiser.fit(x0[labels == k], self.path) for k in range(self.num_classes)])


class TrainingSetOracle(OracleDiffusion):
    """As if the training set were all the data there are: perfect memory."""

    def fit(self, x0: Tensor, labels: Tensor | None) -> Denoiser:
        return TrainingSetDenoiser(x0, self.path, labels)
