"""Imputation by a latent-variable model: holes filled by going back and forth between latents and data."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource
from lightning_gen.vae.latent_model import LatentModel


class Imputer(ABC):
    """A new imputer defines `__call__`."""

    @abstractmethod
    def __call__(self, model: LatentModel, x: Tensor, known: Tensor, cond: Tensor | None, rng: RandomSource) -> Tensor:
        """x [B, *shape] with what `known`, bool [B, *shape], leaves open filled."""


class PseudoGibbs(Imputer):
    """Encode, decode, put back what is known, again and again (Rezende et al. 2014, appendix F).

    Its stationary law is p(missing | known) where q is the posterior itself, and near it where q is near.

    Args:
        steps: rounds.
        mode: fill with the most probable values in the last round, in the place of a sample.
    """

    def __init__(self, steps: int = 100, mode: bool = False) -> None:
        if steps < 1:
            raise UserError(f"imputation takes at least one step, got {steps}")
        self.steps, self.mode = steps, mode

    def __call__(self, model: LatentModel, x: Tensor, known: Tensor, cond: Tensor | None, rng: RandomSource) -> Tensor:
        out = model.generate(len(x), cond, rng, 1.0)  # what stands in the holes has no influence
        for step in range(self.steps + 1):
            last = step == self.steps
            drawn = model.observation.mode(out) if last and self.mode else model.observation.sample(out, rng)
            x = torch.where(known, x, drawn)
            if not last:
                out = model.decode(model.encode(x, cond, rng), cond)
        return x
