"""How a flow is sampled."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.flow.flow_model import FlowModel
from lightning_gen.random_source import RandomSource


class Sampler(ABC):
    """A new sampler defines `__call__`.

    Attributes:
        nfe: passes through the flow that a sample costs.
    """

    nfe = 1

    @abstractmethod
    def __call__(self, model: FlowModel, num: int, cond: Tensor | None, rng: RandomSource) -> Tensor:
        """[num, *shape] in the data's own domain."""


class LatentSampler(Sampler):
    """z from the base, then x through the flow's inverse.

    Args:
        temperature: of the latents of all levels; below 1 samples are more typical and less varied (Kingma and Dhariwal
            2018 show 0.7).
    """

    def __init__(self, temperature: float = 1.0) -> None:
        if not 0 <= temperature < math.inf:
            raise UserError(f"a sampler's temperature is a number from 0 upwards, not {temperature}")
        self.temperature = temperature

    def __call__(self, model: FlowModel, num: int, cond: Tensor | None, rng: RandomSource) -> Tensor:
        z = self.temperature * model.base.sample(num, model.latents, rng)
        return model.to_data(model.decode(z, cond))
