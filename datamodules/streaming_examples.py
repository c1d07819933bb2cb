"""A split that stays in its shards: what is asked for is read, and nothing else is held in memory."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.loaders import Batch, DataOrder, Request, Split
from datamodules.streaming_order import ShardedOrder
from datamodules.streaming_pack import CODECS
from datamodules.streaming_places import Place
from datamodules.streaming_workers import fetched
from lightning_gen.errors import UserError

WHOLE = 4 * 2**30
"""Bytes of a column that may be in memory as a whole."""


class StreamedExamples(Split):
    """A split of a pack.

    Args:
        place: of the pack.
        name: of the split.
        num_workers: processes that read batches in `fetch`; 0 to read them in this one.
        prefetch: batches that each of them is ahead.
        window: shards whose examples the order of training shuffles among each other.
    """

    def __init__(self, place: Place, name: str, num_workers: int = 0, prefetch: int = 2, window: int = 16) -> None:
        self.place, self.name = place, name
        self.num_workers, self.prefetch, self.window = num_workers, prefetch, window
        manifest = place.manifest
        self.shards = manifest.splits[name].shards
        self._ends = np.cumsum([shard.examples for shard in self.shards])
        self._codec, self._shape = CODECS[manifest.codec], tuple(manifest.shape)
        num = int(self._ends[-1])
        self.x = Column(self, "x", (num, *self._shape), torch.uint8)
        self.y = Column(self, "y", (num,), torch.int64) if manifest.class_names else None
        self._open: tuple[int, Any, set[int]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def fingerprint(self) -> str:
        return self.place.manifest.splits[self.name].fingerprint

    def digest_of_shards(self) -> str:
        """16 hexadecimal digits that tell how the examples are cut into shards, which the order depends on."""
        return hashlib.sha256(json.dumps([shard.examples for shard in self.shards]).encode()).hexdigest()[:16]

    def order(self, seed: int) -> DataOrder:
        def ahead(shards: list[int]) -> None:
            self.place.announce(self.name, [self.shards[k] for k in shards])

        return ShardedOrder([shard.examples for shard in self.shards], seed, self.window, ahead)

    def fetch(self, requests: Iterable[Request]) -> Iterator[Batch]:
        if self.num_workers == 0:
            return super().fetch(requests)
        return fetched(self, requests, self.num_workers, self.prefetch)

    def take(self, index: Tensor, micro_step: int | None = None) -> Batch:
        x = np.empty((len(index), *self._shape), np.uint8)
        y = np.empty(len(index), np.int64)
        for row, item in self._items(index):
            x[row] = self._codec.decode(item[0], self._shape)
            y[row] = item[-1] if self.y is not None else 0
        return Batch(torch.from_numpy(x), None if self.y is None else torch.from_numpy(y), index, micro_step)

    def labels(self, index: Tensor) -> Tensor:
        """The labels at `index`, int64 [B], without a look at the images."""
        y = torch.empty(len(index), dtype=torch.int64)
        for row, item in self._items(index):
            y[row] = item[1]
        return y

    def _items(self, index: Tensor) -> Iterator[tuple[int, tuple]]:
        """(row in `index`, what is stored of that example), shard by shard."""
        from litdata.streaming.sampler import ChunkedIndex

        wanted = index.numpy()
        shards = np.searchsorted(self._ends, wanted, side="right")
        for row in wanted.argsort(kind="stable").tolist():
            shard = int(shards[row])
            yield row, self._reader(shard)[ChunkedIndex(int(wanted[row]), shard)]

    def _reader(self, shard: int) -> Any:
        """Maps the shards into this process, in which the one at hand is from now on."""
        if self._open is None or self._open[0] != os.getpid():  # what a forked process inherits is the other's
            from litdata import StreamingDataset

            self.place.provide(self.name, self.place.manifest.splits[self.name].index)
            # one item at a time, since neighbours are not read together; a window of shards stays mapped
            reader = StreamingDataset(
                str(self.place.folder / self.name), batch_decode=0, max_pre_download=max(4, self.window)
            )
            self._open = os.getpid(), reader, set()
        _, reader, provided = self._open
        if shard not in provided:
            self.place.provide(self.name, self.shards[shard])
            provided.add(shard)
        return reader


class Column:
    """`x` or `y` of a split that is not in memory: it has a tensor's shape and type, and slices of it are tensors."""

    def __init__(self, examples: StreamedExamples, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._examples, self._name = examples, name
        self.shape, self.dtype = torch.Size(shape), dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Tensor:
        index = torch.arange(len(self))[rows]
        return self._examples.take(index).x if self._name == "x" else self._examples.labels(index)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """All of it in memory, there.

        Raises:
            UserError: it is larger than `WHOLE`.
        """
        return self._whole().to(*args, **kwargs)

    def flatten(self, *args: Any) -> Tensor:
        """All of it in memory, flattened; raises as `to` does."""
        return self._whole().flatten(*args)

    def _whole(self) -> Tensor:
        size = math.prod(self.shape) * self.dtype.itemsize
        if size > WHOLE:
            raise UserError(
                f"the split {self._examples.name} has {size / 2**30:.1f} GiB, and what is asked for needs all of it in "
                f"memory, where it may have {WHOLE / 2**30:.0f}: give a smaller pack by --data.init_args.path."
            )
        return self[:]
