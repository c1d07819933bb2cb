"""Samples of any GenerativeModule by their indices. No files, no flags."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lightning_gen.evaluation.progress import Advance
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.random_source import IndexedSource


def samples(
    module: GenerativeModule,
    indices: range,
    batch_size: int,
    seed: int,
    *,
    sampler: Any | None = None,
    draw: Callable[..., Tensor] | None = None,
    advance: Advance = int,
) -> Iterator[Tensor]:
    """Batches of the samples of these indices. Sample i depends on (seed, i) alone, not on `batch_size`.

    Args:
        draw: called as `module.sample` is, for something else of each sample; that by default.
    """
    draw = draw or module.sample
    for start in indices[::batch_size]:
        part = range(start, min(start + batch_size, indices.stop))
        rng = IndexedSource(seed, part, module.device)
        with torch.no_grad():
            drawn = draw(len(part), sampler=sampler, rng=rng)
        yield drawn
        advance(len(part))
