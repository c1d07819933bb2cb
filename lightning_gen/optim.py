"""Learning-rate schedules, stepped once per optimizer step, and the clipping of gradients."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_gen.errors import UserError


class Warmup(LambdaLR):
    """Linear warm-up to the optimizer's rate over `warmup_steps`, constant after."""

    def __init__(self, optimizer: Optimizer, warmup_steps: int = 1000) -> None:
        if warmup_steps < 0:
            raise UserError(f"warmup_steps must not be negative, got {warmup_steps}")
        super().__init__(optimizer, lambda step: min(1.0, (step + 1) / (warmup_steps + 1)))


class _Whole(LambdaLR):
    """A schedule of `total_steps`; None is the trainer's `max_steps`, which `GenerativeModule` fills in.

    Where that is endless too, the rate stays at its height.
    """

    total_steps: int | None
    _resumed: tuple[int | None, float, float] | None = None  # the earlier length, and the next step's rate then and now

    def state_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().state_dict().items() if key != "_resumed"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on at this schedule's length: a run that has more steps to make has a longer schedule."""
        length, before = state_dict.get("total_steps"), state_dict["_last_lr"]
        super().load_state_dict({**state_dict, "total_steps": self.total_steps})
        self._last_lr = [rate * f(self.last_epoch) for rate, f in zip(self.base_lrs, self.lr_lambdas)]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr):  # the optimizer has brought the earlier one
            group["lr"] = rate
        if not math.isclose(before[0], self._last_lr[0], rel_tol=1e-6):
            self._resumed = length, before[0], self._last_lr[0]

    def remarks(self) -> list[str]:
        """Sentences for the user: about a length that is not known, or that a resumed run has changed."""
        name, flag = type(self).__name__, "--model.init_args.lr_schedule.total_steps"
        if self.total_steps is None:
            return [f"{name} keeps its full rate: trainer.max_steps is -1; give {flag} N for a schedule of N steps"]
        if self._resumed is None:
            return []
        length, before, now = self._resumed
        keep = f"; give {flag} {length} to keep the earlier schedule" if length else ""
        earlier = f", {length} before" if length else ""
        return [
            f"{name} has {self.total_steps} steps{earlier}: the rate goes on at {now:.3g}, not at {before:.3g}{keep}"
        ]


class WarmupCosine(_Whole):
    """Linear warm-up, then half a cosine down to `final` times the optimizer's rate at `total_steps`."""

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


class GrowingStages(_Whole):
    """Stages i = 0, 1, ... of a constant rate, each `growth` times as long as the last, falling to a tenth of the optimizer's.

    The factors are 10^(-i / (stages - 1)), to two digits. With 8 stages of 3^i epochs and a rate of 1e-3 this is the protocol
    of Burda et al. 2016 (sec. 5.1); here the stages share out `total_steps`, which for theirs are 3,280 epochs.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int | None = None, stages: int = 8, growth: float = 3.0
    ) -> None:
        if stages < 2 or growth < 1:
            raise UserError(f"GrowingStages needs at least 2 stages and a growth of at least 1, got {stages}, {growth}")
        self.total_steps = total_steps
        parts = [growth**i for i in range(stages)]
        ends = [sum(parts[: i + 1]) / sum(parts) for i in range(stages - 1)]

        def factor(step: int) -> float:
            progress = step / (self.total_steps or math.inf)
            return round(10 ** (1 - bisect_right(ends, progress) / (stages - 1)), 1) / 10

        super().__init__(optimizer, factor)


def clip_gradients(optimizer: Optimizer, limit: float, algorithm: str, needs_norm: bool) -> Tensor | None:
    """The norm of all gradients before they are clipped, None where it is not needed.

    Args:
        limit: of the norm, or of each value; as in Lightning, zero or below is none.
        algorithm: "norm" or "value".
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    limits = {algorithm: limit} if limit > 0 else {}
    norm = None
    if "norm" in limits or needs_norm:
        norm = clip_grad_norm_(parameters, limits.get("norm", math.inf), foreach=True)
    if "value" in limits:
        clip_grad_value_(parameters, limit, foreach=True)
    return norm
