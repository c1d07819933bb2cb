"""Images that are too many for memory: packed once by `lightning-gen pack`, then streamed from their shards."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import Tensor

from datamodules.base import DataModule
from datamodules.pixels import flip_half
from datamodules.streaming_examples import StreamedExamples
from datamodules.streaming_pack import require_litdata
from datamodules.streaming_places import Place, find
from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource

DIFFERENT = {
    "images": "{now.path} is a pack of other images than {then[path]}, which this run began with: name that by "
    "--data.init_args.path, or give a new --run.",
    "shards": "{now.path} is cut into other shards than the pack that this run began with, which makes another order: pack "
    "the images with the --shard_mb and the --format that they had, or give a new --run.",
    "window": "this run began with --data.init_args.window {then[window]}, and {now.window} makes another order: give that "
    "one, or a new --run.",
}
"""What is said where a run that goes on would have another order, by what is another; the first difference counts."""


class StreamedImages(DataModule):
    """The images of a pack, in the splits in which they were packed.

    Batch k is of the same images on any number of ranks and workers, and a run resumes with the batch it would have had.
    A rank reads from `window` shards at a time, and every rank from the same: on several machines each of them reads
    every shard. What is read stays in the system's page cache, not in the processes.

    Args:
        path: of a pack's folder, or its URL (s3://, gs://, ...); a relative one is looked for here, then below the root.
        root: folder of the data; by default the environment variable LIGHTNING_GEN_DATA, else `data`.
        horizontal_flip: flip half of the images of every training batch.
        num_workers: processes of each rank that read and decode; 0 to do so between the steps.
        prefetch: batches that each of them is ahead.
        window: shards whose images are shuffled among each other.
        kwargs: the batch sizes of `DataModule`.

    Raises:
        UserError: settings that cannot be; there is no pack, or it is damaged; litdata is not installed.
    """

    levels = 256

    def __init__(
        self,
        path: str,
        root: str | None = None,
        horizontal_flip: bool = False,
        num_workers: int = 2,
        prefetch: int = 2,
        window: int = 16,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value, least in (("num_workers", num_workers, 0), ("prefetch", prefetch, 1), ("window", window, 1)):
            if value < least:
                raise UserError(f"{name} must be at least {least}, not {value}.")
        self.path, self.root, self.horizontal_flip = path, root, horizontal_flip
        self.num_workers, self.prefetch, self.window = num_workers, prefetch, window

    @cached_property
    def place(self) -> Place:
        """Where the pack is."""
        return find(self.path, self.root)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.place.manifest.shape)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Label k is the k-th; empty where there are no labels."""
        return tuple(self.place.manifest.class_names)

    @property
    def num_classes(self) -> int | None:
        return len(self.class_names) or None

    def load(self) -> dict[str, StreamedExamples]:
        require_litdata()
        how = {"num_workers": self.num_workers, "prefetch": self.prefetch, "window": self.window}
        return {name: StreamedExamples(self.place, name, **how) for name in self.place.manifest.splits}

    def state_dict(self) -> dict[str, Any]:
        """What the order of training depends on beside the seed and the batch size; no position in it."""
        return {"path": self.path, **self._order_of()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuses to go on with a training whose order would be another.

        Raises:
            UserError: the pack, its shards or the window is another.
        """
        if self.trainer is None or self.trainer.state.fn != "fit":  # what is evaluated may be of any data
            return
        now = self._order_of()
        different = next((name for name in now if now[name] != state_dict[name]), None)
        if different is not None:
            raise UserError(DIFFERENT[different].format(now=self, then=state_dict))

    def _order_of(self) -> dict[str, Any]:
        examples = self.training_examples()
        return {"images": examples.fingerprint(), "shards": examples.digest_of_shards(), "window": self.window}

    def augment(self, x: Tensor, rng: RandomSource) -> Tensor:
        return flip_half(x, rng) if self.horizontal_flip else x
