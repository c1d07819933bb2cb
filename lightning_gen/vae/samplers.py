"""How a latent-variable model is sampled."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource
from lightning_gen.vae.latent_model import LatentModel


class Sampler(ABC):
    """A new sampler defines `__call__`.

    Attributes:
        nfe: passes through the generative networks that a sample costs.
    """

    nfe = 1

    @abstractmethod
    def __call__(self, model: LatentModel, num: int, cond: Tensor | None, rng: RandomSource) -> Tensor:
        """[num, *shape] in the data's own domain."""


class PriorSampler(Sampler):
    """z ~ p(z), then x ~ p(x | z).

    Args:
        temperature: of the prior's standard deviations; below 1 samples are more typical and less varied.
        mode: take the most probable x of p(x | z) in the place of a sample: pictures without pixel noise, which are no
            samples of the model.
    """

    def __init__(self, temperature: float = 1.0, mode: bool = False) -> None:
        if temperature < 0:
            raise UserError(f"a sampler's temperature must not be negative, got {temperature}")
        self.temperature, self.mode = temperature, mode

    def __call__(self, model: LatentModel, num: int, cond: Tensor | None, rng: RandomSource) -> Tensor:
        out = model.generate(num, cond, rng, self.temperature)
        return model.observation.mode(out) if self.mode else model.observation.sample(out, rng)
