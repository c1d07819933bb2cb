"""Buffers that stay in the precision they were made in, whatever the module around them is cast to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn


class ExactBuffers(nn.Module):
    """A module whose own buffers follow it to its device and keep their dtype: bfloat16 would stop a count at 256."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            self._buffers[name] = buffer.to(self._buffers[name].device)
        return self
