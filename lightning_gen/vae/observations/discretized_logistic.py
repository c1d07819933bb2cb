"""Levels with an order: a logistic distribution, rounded."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gen.logistic_bins import STD_TO_SCALE, LogisticBins
from lightning_gen.random_source import RandomSource
from lightning_gen.vae.observations.base import LevelObservation, pieces
from lightning_gen.vae.observations.location_scale import LocationScale


class DiscretizedLogistic(LocationScale, LevelObservation):
    """The mass of a logistic distribution in each level's bin, of width 2 / (L - 1) in [-1, 1], the outermost bins open.

    (Kingma et al. 2016; Salimans et al. 2017, eq. 2 with one component.)
    """

    scale_per_std = STD_TO_SCALE

    @property
    def least_std(self) -> float:
        return 1 / (self.levels - 1)  # half a bin

    def _bins(self, out: Tensor) -> LogisticBins:
        return LogisticBins.of(*self.location_and_log_scale(out), self.levels)

    def terms(self, out: Tensor, x: Tensor) -> Tensor:
        return self._bins(out).log_prob(x)

    def sample(self, out: Tensor, rng: RandomSource) -> Tensor:
        return self.as_data(self._bins(out).quantile(rng.uniform((len(out), *self.shape))))

    def mode(self, out: Tensor) -> Tensor:
        return self.as_data(self._bins(out).mode())

    def mean(self, out: Tensor) -> Tensor:
        return torch.cat([self._bins(part).mean() for part in pieces(out)]).float()
