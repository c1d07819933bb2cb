"""Which layer of a flow went first, when what it gives is no longer finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gen.divergence import ADVICE
from lightning_gen.errors import Diverged
from lightning_gen.flow.bijections.base import Bijection


class LayerWatch:
    """Sees what each bijection of a module gives, and its log-determinant, and looks at them when asked.

    Args:
        module: whose bijections are watched; each is named by its path within it.
    """

    def __init__(self, module: nn.Module) -> None:
        # a sum for each, NaN or infinite once something was; in the order they were through, what is within another first
        self._seen: dict[str, Tensor] = {}
        self._kept: list[tuple[int, Tensor]] = []
        self._names: list[str] = []  # of what is kept, the same in every pass
        for name, layer in module.named_modules():
            if isinstance(layer, Bijection):
                layer.register_forward_hook(partial(self._see, f"{name} ({type(layer).__name__})"))

    def _see(self, name: str, layer: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
        z, log_det = output
        total = z.detach().sum() + log_det.detach().sum()
        self._seen[name] = self._seen[name] + total if name in self._seen else total

    def keep(self, step: int) -> None:
        """Remembers what was seen since the last time, as that of optimizer step `step`. Reads nothing from the device."""
        if self._seen:
            self._names = list(self._seen)
            self._kept.append((step, torch.stack(list(self._seen.values())).isfinite()))
            self._seen = {}

    def forget(self) -> None:
        """What was seen so far matters no more."""
        self._seen = {}

    def check(
        self, largest: Callable[[Tensor], Tensor] = lambda value: value, device: torch.device | str = "cpu"
    ) -> None:
        """Looks at what was kept, on all ranks; waits for the device.

        Args:
            largest: the elementwise maximum of a tensor over the ranks, so that they stop together.
            device: on which ranks speak to each other.

        Raises:
            Diverged: something was NaN or infinite; names the first step and its first layer.
        """
        kept, self._kept = self._kept, []
        table = torch.stack([finite for _, finite in kept]).tolist() if kept else []
        lost = [(step, finite.index(False)) for (step, _), finite in zip(kept, table) if not all(finite)]

        def least(values: list[int]) -> float:
            """Of all ranks, which may have kept different numbers of passes; inf where there are none."""
            own = torch.tensor(-min(values, default=math.inf), dtype=torch.float32, device=device)
            return -float(largest(own))

        step = least([step for step, _ in lost])
        if math.isinf(step):
            return
        first = int(least([index for at, index in lost if at == step]))
        name = self._names[first] if self._names else f"number {first}"
        raise Diverged(f"layer {name} of the flow gives NaN or infinite values at step {int(step)}; {ADVICE}")
