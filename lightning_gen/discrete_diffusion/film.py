"""The film of a discrete diffusion: how samples come out of masks or noise."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_gen.powers import NOTHING, check_frames, frames_of


def film(states: Iterable[Tensor], frames: int, levels: int) -> Tensor:
    """int64 [B, frames, *shape]: states equally many apart, the last is the sample; masks are NOTHING.

    A trajectory of fewer states gives fewer frames.

    Raises:
        UserError: for fewer than two frames.
    """
    check_frames(frames)
    small = torch.int16 if levels < 2**15 else torch.int32
    visited = [x.to(small) for x in states]
    shown = torch.stack([visited[i] for i in frames_of(len(visited), frames)], 1)
    return shown.long().masked_fill(shown == levels, NOTHING)
