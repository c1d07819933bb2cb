"""The denoising film: a sampler's trajectory in the data's own domain."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_gen.diffusion.decoders import Decoder
from lightning_gen.diffusion.samplers import Visited
from lightning_gen.errors import NonFiniteSamples
from lightning_gen.powers import check_frames, frames_of


def film(visited: Iterable[Visited], frames: int, decoder: Decoder) -> Tensor:
    """[B, frames, *shape] in the data's own domain: points of a trajectory, equally many apart; the last is the sample.

    A state is shown as it would be on the variance-preserving path at its log-SNR, x / sqrt(alpha^2 + sigma^2): noise of
    any scale is seen, and turns into the data. A trajectory of fewer points gives fewer frames.

    Raises:
        UserError: for fewer than two frames.
        NonFiniteSamples: where the trajectory runs off.
    """
    check_frames(frames)
    points = list(visited)
    if not all(torch.isfinite(point.x).all() for point in points):
        raise NonFiniteSamples("the trajectory has points that are not finite: no film of it can be shown")
    states = [_shown(points[i], decoder) for i in frames_of(len(points), frames)[:-1]]
    return torch.stack([*states, decoder.decode(*points[-1])], dim=1)


def _shown(point: Visited, decoder: Decoder) -> Tensor:
    x, level = point
    return decoder.decode((level.alpha / torch.hypot(level.alpha, level.sigma)).to(x.dtype) * x, level)
