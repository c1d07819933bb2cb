"""Stops a run whose loss or weights are no longer finite, without a look at the device in any training step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lightning_gen.errors import Diverged

ADVICE = (
    "a checkpoint of before, if there is one, is kept: begin a new run with a lower learning rate or "
    "--trainer.gradient_clip_val 1.0"
)


class LossWatch:
    """Remembers the losses since the last look, as they are on the device, and looks at them all at once."""

    def __init__(self) -> None:
        self._losses: list[tuple[int, Tensor]] = []

    def add(self, step: int, loss: Tensor) -> None:
        """The scalar loss of (a micro-batch of) the optimizer step that will be number `step`. Reads nothing."""
        self._losses.append((step, loss.detach()))

    def check(self, largest: Callable[[Tensor], Tensor]) -> None:
        """Looks at the losses of all ranks; waits for the device.

        Args:
            largest: the elementwise maximum of a tensor over the ranks, so that they stop together.

        Raises:
            Diverged: one was NaN or infinite; names the first step.
        """
        if not self._losses:
            return
        steps, losses = zip(*self._losses)
        self._losses = []
        bad = ~torch.isfinite(torch.stack(losses))
        at = torch.tensor(steps, dtype=torch.float32, device=bad.device)
        first = -float(largest(torch.where(bad, -at, -math.inf).max()))
        if math.isfinite(first):
            raise Diverged(f"the loss is NaN or infinite at step {first:.0f}; {ADVICE}")


def check_weights(parameters: Iterable[Tensor], step: int, largest: Callable[[Tensor], Tensor]) -> None:
    """Looks at the weights after optimizer step `step`, on all ranks (see `LossWatch.check`); waits for the device.

    Raises:
        Diverged: some are NaN or infinite, which their losses will show only at the next step.
    """
    norms = torch._foreach_norm([p.detach() for p in parameters], ord=math.inf)
    if norms and largest((~torch.isfinite(torch.stack(norms))).any().float()) > 0:
        raise Diverged(f"the weights are NaN or infinite after step {step}; {ADVICE}")
