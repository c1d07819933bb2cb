"""Infilling: what a sampler puts into the holes of an instance, the rest standing fast."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from lightning_gen.discrete_diffusion.predictor import Predictor
from lightning_gen.discrete_diffusion.processes import Process
from lightning_gen.discrete_diffusion.samplers import Known, Sampler
from lightning_gen.errors import UserError
from lightning_gen.masks import as_mask
from lightning_gen.random_source import RandomSource


class Infilling:
    """The known components are put in at every step, and the holes are sampled around them.

    An absorbing process has them as they are, so that only the holes are masked, and the network is given the noise level of
    as many masks; one component a step (`AnyOrder`) then samples the model's conditional. Other processes have them as noised
    as the rest then is. A step sees them through that noise alone, so the holes would not fit well (the replacement method,
    Song et al. 2021, app. I.2): each stretch of `jump` steps is walked `resamplings` times, noise being put back in between
    (RePaint, Lugmayr et al. 2022). With the number of resamplings the holes come near to their conditional distribution: where
    two components are equal with probability 0.9, a hole is so with 0.66 without, and with 0.85 to 0.88 at the defaults.

    Args:
        sampler: the model's own by default.
        resamplings: how often a stretch is walked, where the known components are noised; that many times the cost.
        jump: steps of a stretch.
    """

    def __init__(self, sampler: Sampler | None = None, resamplings: int = 10, jump: int = 1) -> None:
        if resamplings < 1 or jump < 1:
            raise UserError(f"Infilling needs resamplings and jump of at least 1, got {resamplings} and {jump}")
        self.sampler, self.resamplings, self.jump = sampler, resamplings, jump

    def of(self, sampler: Sampler) -> Infilling:
        """Itself, with that sampler where it has none of its own."""
        return self if self.sampler is not None else Infilling(sampler, self.resamplings, self.jump)

    def __call__(
        self, predictor: Predictor, process: Process, x: Tensor, mask: Tensor, y: Tensor | None, rng: RandomSource
    ) -> Tensor:
        """x [B, *shape], in the data's own domain, with its holes filled.

        Raises:
            UserError: for a mask that is not of x's shape or does not broadcast to it, or that the process cannot be shown.
        """
        mask = as_mask(mask, x)
        process.check_known(mask)
        again = (1, 1) if process.masked else (self.resamplings, self.jump)
        known = Known(x.long().masked_fill(~mask, 0), mask, *again)
        trajectory = self.sampler.trajectory(predictor, process, len(x), x.device, y, rng, known)
        return torch.where(mask, x, deque(trajectory, maxlen=1).pop().to(x.dtype))
