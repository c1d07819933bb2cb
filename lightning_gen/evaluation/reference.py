"""Features of data sets, computed once on a machine: what samples are measured against, and floor and ceiling."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_gen.array_cache import Arrays, Column, cached, look_up
from lightning_gen.evaluation.extractors import Extractor
from lightning_gen.evaluation.features import KEPT, FeatureCollector, Features
from lightning_gen.evaluation.frechet import Moments, Reference
from lightning_gen.evaluation.ranks import Ranks

FORMAT = 1
"""Of what is kept; to be raised whenever equal settings would give other numbers."""


class DataFeatures:
    """Makes the features of sets of data, or finds them where an earlier evaluation left them.

    They are kept under everything that could change them: the extractor's digest (weights, layer, preprocessing), the
    data's content and levels, how many there are, and the kind of device and the version of torch that computed them.
    """

    def __init__(
        self, extractor: Extractor, levels: int | None, device: torch.device | str, ranks: Ranks, batch_size: int
    ) -> None:
        self.extractor, self.levels, self.device = extractor, levels, device
        self.ranks, self.batch_size = ranks, batch_size

    def of(
        self, x: Tensor, content: Any, what: str, advance: Callable[[int], Any] = int, root: bool = False
    ) -> tuple[Features, Reference | None] | None:
        """Features of the whole of `x` (and with `root` what distances to it need) on the first rank; None on others.

        Args:
            x: [N, ...] in the data's own domain, the same on all ranks.
            content: primitives that tell `x` from any other data.
            what: `x` is, for people.
        """
        key = [FORMAT, self.extractor.digest, content, len(x), self.levels, KEPT, root]
        key += [torch.device(self.device).type, torch.__version__]
        name = f"features-{self.extractor.name}"
        found = look_up(name, key) if self.ranks.first else None
        if self.ranks.exchange(found is not None)[0]:
            return None if found is None else _restored(found)
        share = self.ranks.share(len(x))
        collector = FeatureCollector(self.extractor, self.device, self.ranks, share.start, what)
        for start in share[:: self.batch_size]:
            batch = x[start : min(start + self.batch_size, share.stop)]
            collector.add(batch.to(self.device), self.levels)
            self.ranks.watching(advance)(len(batch))
        made = collector.gathered()
        return None if made is None else _restored(cached(name, key, lambda: _columns(made, root)))


def _columns(made: Features, root: bool) -> Iterator[Column]:
    moments = made.moments
    tensors = {"mean": moments.mean, "cov": moments.cov, "count": torch.tensor([moments.count]), "rows": made.rows}
    if made.logits is not None:
        tensors["logits"] = made.logits
    if root:
        tensors["root"] = Reference.from_moments(moments).root
    for name, tensor in tensors.items():
        array = tensor.contiguous().numpy()
        yield Column(name, array.shape, array.dtype.type, [array])


def _restored(arrays: Arrays) -> tuple[Features, Reference | None]:
    tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
    moments = Moments(tensors["mean"], tensors["cov"], int(tensors["count"]))
    features = Features(moments, tensors["rows"], tensors.get("logits"))
    return features, Reference(moments, tensors["root"]) if "root" in tensors else None


def shared_examples(x: Tensor, others: Tensor) -> float:
    """The share of the examples `x` [N, ...] that are among `others` [M, ...], byte by byte."""
    return torch.isin(_keys(x), _keys(others)).double().mean().item()


def _keys(x: Tensor) -> Tensor:
    """A number for each example, int64 [N]; equal for equal examples, and hardly ever for others."""
    size = math.prod(x.shape[1:]) * x.dtype.itemsize
    weights = torch.randint(2**62, (size,), generator=torch.Generator().manual_seed(0))
    parts = (x[first : first + 1024] for first in range(0, max(len(x), 1), 1024))  # data may be larger than memory
    return torch.cat([(rows.flatten(1).contiguous().view(torch.uint8).long() * weights).sum(1) for rows in parts])
