"""Infilling: what a sampler puts into the holes of an instance, the rest standing fast."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from lightning_gen.discrete_diffusion.predictor import Predictor
from lightning_gen.discrete_diffusion.processes import Process
from lightning_gen.discrete_diffusion.samplers import Ancestral, Known, Sampler
from lightning_gen.masks import as_mask
from lightning_gen.random_source import RandomSource


class Infilling:
    """The known components are put in at every step: of an absorbing process as they are, so that only the holes are masked,
    and the network is told the noise level of as many masks; one component a step (`AnyOrder`) then samples the model's
    conditional. Of other processes they are as noised as the rest then is, which is near it (the replacement method, Song
    et al. 2021, app. I.2).

    Args:
        sampler: 100 ancestral steps by default.
    """

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.sampler = sampler or Ancestral()

    @property
    def nfe(self) -> int | None:
        """Network evaluations that an instance costs."""
        return self.sampler.nfe

    def __call__(
        self, predictor: Predictor, process: Process, x: Tensor, mask: Tensor, y: Tensor | None, rng: RandomSource
    ) -> Tensor:
        """x [B, *shape], in the data's own domain, with its holes filled.

        Raises:
            UserError: for a mask that is not of x's shape or does not broadcast to it.
        """
        mask = as_mask(mask, x)
        known = Known(x.long().masked_fill(~mask, 0), mask)
        trajectory = self.sampler.trajectory(predictor, process, len(x), x.device, y, rng, known)
        return torch.where(mask, x, deque(trajectory, maxlen=1).pop().to(x.dtype))
