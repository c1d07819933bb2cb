"""What training minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from lightning_gen.discrete_diffusion.processes import Process
from lightning_gen.errors import UserError


class Objective(ABC):
    """A new objective defines `__call__`."""

    @abstractmethod
    def __call__(self, process: Process, x0: Tensor, x_t: Tensor, log_w: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Named parts of the loss, [B] each, that add up to it: nats of each example per dimension, at times t [B]."""


class Bound(Objective):
    """The variational bound's diffusion and reconstruction terms, at one step or time of each example.

    Args:
        cross_entropy: weight, lambda, of an auxiliary -log p(x_0 | x_t) beside the KL of one step, as in the code and the runs
            of Austin et al. 2021 (eq. 5; 0.001 to 0.01 there). The bound is the sum over T steps, so the loss is the bound
            + T lambda (-log p(x_0 | x_t)); in continuous time, where there is no T, the bound + lambda (-log p(x_0 | x_t)).
            p(x_0 | x_t) is the one from which the reverse steps follow, so that both parts have one optimum.
    """

    def __init__(self, cross_entropy: float = 0.0) -> None:
        if cross_entropy < 0:
            raise UserError(f"the weight of the cross-entropy is at least 0, got {cross_entropy}")
        self.weight = cross_entropy

    def __call__(self, process: Process, x0: Tensor, x_t: Tensor, log_w: Tensor, t: Tensor) -> dict[str, Tensor]:
        parts = {"bound": process.nats(x0, x_t, log_w, t).flatten(1).mean(1)}
        if self.weight:
            weight = self.weight * (process.steps or 1)
            parts["cross_entropy"] = weight * process.cross_entropy(x0, x_t, log_w, t).flatten(1).mean(1)
        return parts


class CrossEntropy(Objective):
    """-log p(x_0 | x_t) alone, of all times alike: for masks the simplified loss of MaskGIT (Chang et al. 2022), summed over
    what is masked. No bound, but at each time the same optimum: it weighs times otherwise.
    """

    def __call__(self, process: Process, x0: Tensor, x_t: Tensor, log_w: Tensor, t: Tensor) -> dict[str, Tensor]:
        return {"cross_entropy": process.cross_entropy(x0, x_t, log_w, t).flatten(1).mean(1)}
