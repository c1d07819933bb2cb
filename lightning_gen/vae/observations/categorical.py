"""Levels as classes without an order, each element's probabilities free."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_gen.categorical import draw_index
from lightning_gen.random_source import RandomSource
from lightning_gen.vae.observations.base import LevelObservation, precise


class Categorical(LevelObservation):
    """p(x = l | z) = softmax(out)_l, for each element of x; out is (L C, H, W), level by level."""

    @property
    def multiple(self) -> int:
        return self.levels

    @property
    def _dim(self) -> int:
        """The levels' dimension after `split`."""
        return -len(self.shape) - 1

    def terms(self, out: Tensor, x: Tensor) -> Tensor:
        logits, dim = self.split(out), self._dim
        own = logits.take_along_dim(x.long().unsqueeze(dim)[None], dim).squeeze(dim)
        return own - logits.logsumexp(dim)

    def sample(self, out: Tensor, rng: RandomSource) -> Tensor:
        return self.as_data(draw_index(self.split(precise(out)), rng.uniform((len(out), 1, *self.shape)), self._dim))

    def mode(self, out: Tensor) -> Tensor:
        return self.as_data(self.split(out).argmax(self._dim))

    def mean(self, out: Tensor) -> Tensor:
        probs = self.split(precise(out)).softmax(self._dim)
        index = torch.arange(self.levels, device=out.device, dtype=probs.dtype)
        return (probs * index.view(-1, *[1] * len(self.shape))).sum(self._dim).float()

    def initial(self, x: Tensor) -> Tensor:
        """Log-frequencies of each element's levels, with one observation in equal parts of all levels added to the data."""
        counts = torch.stack([(x == level).sum(0) for level in range(self.levels)])
        return ((counts.double() + 1 / self.levels) / (len(x) + 1)).log().float().flatten(0, 1)
