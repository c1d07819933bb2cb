"""Learning-rate schedules, stepped once per optimizer step."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_gen.errors import UserError


class Warmup(LambdaLR):
    """Linear warm-up to the optimizer's rate over `warmup_steps`, constant after."""

    def __init__(self, optimizer: Optimizer, warmup_steps: int = 1000) -> None:
        if warmup_steps < 0:
            raise UserError(f"warmup_steps must not be negative, got {warmup_steps}")
        super().__init__(optimizer, lambda step: min(1.0, (step + 1) / (warmup_steps + 1)))


class WarmupCosine(LambdaLR):
    """Linear warm-up, then half a cosine down to `final` times the optimizer's rate at `total_steps`.

    `total_steps=None` is the trainer's `max_steps`, which `GenerativeModule` fills in.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int | None = None, warmup_steps: int = 0, final: float = 0.0
    ) -> None:
        if warmup_steps < 0 or (total_steps is not None and warmup_steps >= total_steps):
            raise UserError(f"warmup_steps must lie in [0, total_steps), got {warmup_steps} of {total_steps}")
        self.total_steps = total_steps

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            total = self.total_steps or math.inf
            progress = min(1.0, (step - warmup_steps) / max(1, total - warmup_steps))
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

        super().__init__(optimizer, factor)

    def state_dict(self) -> dict[str, Any]:
        """Without `total_steps`: a run resumed with more steps to make has a longer schedule."""
        return {key: value for key, value in super().state_dict().items() if key != "total_steps"}
