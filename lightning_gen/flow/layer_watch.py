"""Which layer of a flow went first, when a log-determinant is no longer finite."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_gen.divergence import ADVICE
from lightning_gen.errors import Diverged
from lightning_gen.flow.bijections.base import Bijection


class LayerWatch:
    """Sees the log-determinant of each bijection of a module as it is computed, and looks at them when asked.

    Args:
        module: whose bijections are watched; each is named by its path within it.
    """

    def __init__(self, module: nn.Module) -> None:
        self._last: dict[str, Tensor] = {}  # as they were through: what is within another before it
        self._kept: list[tuple[int, Tensor]] = []
        for name, layer in module.named_modules():
            if isinstance(layer, Bijection):
                layer.register_forward_hook(partial(self._see, f"{name} ({type(layer).__name__})"))

    def _see(self, name: str, layer: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
        self._last[name] = output[1].detach()

    def keep(self, step: int) -> None:
        """Remembers which layers' log-determinants were finite in the pass that was just made, for optimizer step `step`.
        Reads nothing from the device."""
        self._kept.append((step, self._finite()))

    def check_now(self) -> None:
        """
        Raises:
            Diverged: a log-determinant of the last pass is NaN or infinite; names the first layer. Waits for the device.
        """
        finite = self._finite()
        if not finite.all():
            raise Diverged(f"the log-determinant of layer {self._first(finite)} is NaN or infinite")

    def check(self, largest: Callable[[Tensor], Tensor]) -> None:
        """Looks at what was kept, on all ranks; waits for the device.

        Args:
            largest: the elementwise maximum of a tensor over the ranks, so that they stop together.

        Raises:
            Diverged: names the first step and its first layer.
        """
        if not self._kept:
            return
        steps, finite = zip(*self._kept)
        self._kept = []
        bad = largest((~torch.stack(finite)).float()) > 0
        if bad.any():
            first = int(bad.any(1).nonzero()[0])
            layer = self._first(~bad[first])
            raise Diverged(f"the log-determinant of layer {layer} is NaN or infinite at step {steps[first]}; {ADVICE}")

    def _finite(self) -> Tensor:
        return torch.stack(list(self._last.values())).isfinite().all(1)

    def _first(self, finite: Tensor) -> str:
        return list(self._last)[int((~finite).nonzero()[0])]
