"""The film of a discrete diffusion: how samples come out of masks or noise."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_gen.errors import UserError


def film(states: Iterable[Tensor], frames: int, levels: int) -> Tensor:
    """int64 [B, frames, *shape]: states equally many apart, the last is the sample; masks are -1.

    A trajectory of fewer states gives fewer frames.

    Raises:
        UserError: for fewer than two frames.
    """
    if frames < 2:
        raise UserError(f"a film has at least two frames, not {frames}")
    small = torch.int16 if levels < 2**15 else torch.int32
    visited = [x.to(small) for x in states]
    chosen = torch.linspace(0, len(visited) - 1, min(frames, len(visited))).round().long().tolist()
    shown = torch.stack([visited[i] for i in chosen], 1)
    return shown.long().masked_fill(shown == levels, -1)
