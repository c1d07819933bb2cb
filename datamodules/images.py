"""The base of the image data sets: source images made into splits of integers once, augmentation on the device."""

from __future__ import annotations

import hashlib
import inspect
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from datamodules.base import DataModule, Examples
from datamodules.binarization import Binarization
from datamodules.pixels import flip_half, quantize, resize_images
from datamodules.stratify import stratified_order
from lightning_gen.array_cache import Column, cached, in_memory
from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource, derive_seed
from lightning_gen.specs import describe

FORMAT = 3
"""Of what is made of a source; to be raised whenever equal settings would give other integers."""

CHUNK = 1024
"""Images that are resized, padded, and drawn bits for at a time."""

Images = tuple[Tensor, Tensor | None]
"""A part of a source: greys uint8 [N, C, H, W], and labels int64 [N] or None."""


class ImageData(DataModule):
    """Images as integers, in splits that depend on `split_seed` alone.

    Every split is in an order any stretch of which holds every class in its share, so its first n examples are a
    class-stratified subset; the subsets below are such. What is done to each image alone (resizing, padding, levels,
    fixed bits) is done once and cached; flips and dynamic bits are drawn for whole batches on the device.

    A subclass says what its source is: `native_shape`, `native_classes`, `parts`, `read`, `identity` and, before any of
    these is asked, `fetch`.

    Args:
        root: folder of the data; by default the environment variable LIGHTNING_GEN_DATA, else `data`.
        resize: the central square of each image is resized to this side (bicubic, antialiased).
        pad: zeros on each side, after resizing.
        horizontal_flip: flip half of the images of every training batch.
        levels: L of the integers {0..L-1}: floor(grey * L / 256).
        binarization: bits in place of levels; `levels` is 2 then.
        classes: the source's labels to keep; the first becomes label 0 and so on.
        num_train, num_val, num_test: at most so many examples of a split; None for all. Other splits stay whole.
        split_seed: which images of the source's training part are held out.
        kwargs: the batch sizes of `DataModule`.

    Attributes:
        native_shape: of the source's images, (C, H, W).
        native_classes: number of the source's classes; None where it has no labels.
        held_out: share of the source's training part that is cut off for a split the source itself lacks.
        stretches: further splits that are views of `train`: the shares of it at which each begins and ends.

    Raises:
        UserError: settings that cannot be; a source that is not there or cannot be read.
    """

    native_shape: tuple[int, int, int]
    native_classes: int | None
    held_out: dict[str, Fraction]
    stretches: dict[str, tuple[Fraction, Fraction]] = {}  # noqa: RUF012

    def __init__(
        self,
        root: str | None = None,
        resize: int | None = None,
        pad: int = 0,
        horizontal_flip: bool = False,
        levels: int = 256,
        binarization: Binarization | None = None,
        classes: list[int] | None = None,
        num_train: int | None = None,
        num_val: int | None = None,
        num_test: int | None = None,
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if binarization is not None and levels not in (2, 256):
            raise UserError(f"levels {levels} and binarization exclude each other: binarised images have 2 levels.")
        if not 2 <= levels <= 256:
            raise UserError(f"levels must be from 2 to 256, not {levels}.")
        for name, value, least in (
            ("resize", resize, 1), ("pad", pad, 0), ("num_train", num_train, 1), ("num_val", num_val, 1),
            ("num_test", num_test, 1),
        ):  # fmt: skip
            if value is not None and value < least:
                raise UserError(f"{name} must be at least {least}, not {value}.")
        if classes is not None and (not classes or len(set(classes)) < len(classes)):
            raise UserError(f"classes must be labels, each once, not {classes}.")
        self.root = root
        self.resize, self.pad, self.horizontal_flip = resize, pad, horizontal_flip
        self.levels = levels if binarization is None else 2
        self.binarization = binarization
        self.classes = classes
        self.num_train, self.num_val, self.num_test = num_train, num_val, num_test
        self.split_seed = split_seed
        self._greys: Examples | None = None

    # ---- the source -----------------------------------------------------------------------------------------------

    def fetch(self) -> None:
        """Makes sure that the source is there, by downloading it if need be."""

    @abstractmethod
    def identity(self) -> Any:
        """Primitives that change when the source's content does; cheap, nothing is decoded."""

    @abstractmethod
    def parts(self) -> Sequence[str]:
        """The parts the source comes in: "train", and "val" and "test" if it has them."""

    @abstractmethod
    def read(self, part: str) -> Images:
        """A part of the source, all images of one size (that of `resize` already, if it must be)."""

    @property
    def folder(self) -> Path:
        """Where the data are looked for."""
        return data_folder(self.root)

    # ---- what the data are ----------------------------------------------------------------------------------------

    @cached_property
    def shape(self) -> tuple[int, ...]:
        channels, *sides = self.native_shape
        sides = sides if self.resize is None else [self.resize] * 2
        return (channels, *(side + 2 * self.pad for side in sides))

    @cached_property
    def num_classes(self) -> int | None:
        if self.classes is None:
            return self.native_classes
        if self.native_classes is None:
            raise UserError(f"{type(self).__name__} has no labels to choose classes {self.classes} from.")
        if unknown := [label for label in self.classes if not 0 <= label < self.native_classes]:
            raise UserError(
                f"{type(self).__name__} has no class {unknown[0]}: classes must be from 0 to {self.native_classes - 1}."
            )
        return len(self.classes)

    def prepare_data(self) -> None:
        """Once on a node: downloads the source and fills the cache, which the other ranks then map."""
        self.split("train")

    def load(self) -> dict[str, Examples]:
        _ = self.num_classes  # refuses unknown classes before the source is read
        self.fetch()
        key = self._key()
        arrays = in_memory(self._make()) if key is None else cached(type(self).__name__.lower(), key, self._make)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        x, y = ({name[:-2]: value for name, value in tensors.items() if name.endswith(end)} for end in (".x", ".y"))
        splits = {name: self._first(name, Examples(x[name], y.get(name))) for name in x}
        for name in self.stretches:
            rows = slice(*tensors[f"{name}.rows"].tolist())
            splits[name] = Examples(x["train"][rows], y["train"][rows] if y else None)
        if "train.greys" in tensors:
            self._greys = self._first("train", Examples(tensors["train.greys"], y.get("train")))
        return splits

    def training_examples(self) -> Examples:
        train = self.split("train")
        return train if self._greys is None else self._greys

    def augment(self, x: Tensor, rng: RandomSource) -> Tensor:
        if self.horizontal_flip:
            x = flip_half(x, rng)
        if self.binarization is not None and self.binarization.fresh:
            x = self.binarization.draw(x, rng)
        return x

    # ---- from the source to splits --------------------------------------------------------------------------------

    def cut(self, part: str, y: Tensor) -> dict[str, Tensor]:
        """{split: its images, int64, of all classes}, of a part of the source with labels `y` [N]."""
        names = [name for name in self.held_out if part == "train" and name not in self.parts()]
        sizes = torch.tensor([max(1, int(len(y) * self.held_out[name])) for name in names], dtype=torch.int64)
        keys = (self.split_seed,) if names else ()  # a part that nothing is cut off never changes
        order = stratified_order(y, derive_seed("split", part, *keys))
        return dict(zip([*names, part], order.tensor_split(sizes.cumsum(0))))  # empty where images are too few

    def _key(self) -> Any:
        """Primitives that the arrays depend on; None where they cannot be told, in a class without a source file."""
        kind = type(self)
        own = kind.__mro__[: kind.__mro__.index(ImageData)]
        try:
            code = [_file_digest(each) for each in own if each.__module__.partition(".")[0] != __package__]
        except (OSError, TypeError):  # a notebook's class: its `read` may change and nothing tell
            return None
        made_by = {name: getattr(self, name) for name in ("resize", "pad", "levels", "classes", "split_seed")}
        cuts = {name: str(value) for name, value in self.held_out.items()}
        cuts |= {name: [str(value) for value in values] for name, values in self.stretches.items()}
        source = [f"{kind.__module__}.{kind.__qualname__}", code, list(self.parts()), self.identity()]
        return [FORMAT, source, cuts, made_by, describe(self.binarization)]

    def _make(self) -> Iterator[Column]:
        """NAME.x of all splits, NAME.y if there are labels, train.greys if training draws bits, NAME.rows of stretches.

        No more than one part of the source is in memory at once.
        """
        for part in self.parts():
            yield from self._columns_of_part(part)

    def _columns_of_part(self, part: str) -> Iterator[Column]:
        x, y = self.read(part)
        labels = torch.zeros(len(x), dtype=torch.int64) if y is None else y
        for name, index in self.cut(part, labels).items():
            kept = torch.ones(len(index), dtype=torch.bool)
            if self.classes is not None:
                kept = torch.isin(labels[index], torch.tensor(self.classes))
            yield from self._columns_of_split(name, part, x, y, index[kept])
            for stretch, shares in self.stretches.items() if name == "train" else ():
                first, last = (int(kept[: int(len(index) * share)].sum()) for share in shares)
                self._refuse_empty(stretch, last - first)
                yield Column(f"{stretch}.rows", (2,), np.int64, [np.array([first, last])])

    def _columns_of_split(self, name: str, part: str, x: Tensor, y: Tensor | None, index: Tensor) -> Iterator[Column]:
        self._refuse_empty(name, len(index))
        shape = (len(index), *self.shape)
        values = (self._encode(greys, rows, part).numpy() for rows, greys in self._greys_of(x, index))
        yield Column(f"{name}.x", shape, np.uint8, values)
        if name == "train" and self.binarization is not None and self.binarization.fresh:
            yield Column("train.greys", shape, np.uint8, (greys.numpy() for _, greys in self._greys_of(x, index)))
        if y is not None:
            yield Column(f"{name}.y", (len(index),), np.int64, [self._relabel(y[index]).numpy()])

    def _refuse_empty(self, name: str, num: int) -> None:
        if num == 0:
            raise UserError(f"{type(self).__name__} has too few images: the split {name!r} is empty.")

    def _greys_of(self, x: Tensor, index: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Chunks of (`index`, those images of `x` [N, C, H, W] resized and padded)."""
        for rows in index.split(CHUNK):
            greys = resize_images(x[rows], self.resize)
            yield rows, functional.pad(greys, [self.pad] * 4) if self.pad else greys

    def _encode(self, greys: Tensor, rows: Tensor, part: str) -> Tensor:
        """Greys [B, C, H, W], which are images `rows` [B] of a part, as integers {0..levels-1}."""
        return quantize(greys, self.levels) if self.binarization is None else self.binarization.fixed(greys, rows, part)

    def _relabel(self, y: Tensor) -> Tensor:
        return y if self.classes is None else (y[:, None] == torch.tensor(self.classes)).long().argmax(1)

    def _first(self, name: str, examples: Examples) -> Examples:
        """The subset of a split that is asked for: views, no copies."""
        num = {"train": self.num_train, "val": self.num_val, "test": self.num_test}.get(name)
        if num is None:
            return examples
        if num > len(examples):
            raise UserError(f"num_{name} is {num}, but {type(self).__name__} has {len(examples)} such images.")
        return Examples(examples.x[:num], None if examples.y is None else examples.y[:num])


def data_folder(root: str | None) -> Path:
    """The folder `root`, by default the environment variable LIGHTNING_GEN_DATA, else `data`."""
    return Path(root or os.environ.get("LIGHTNING_GEN_DATA") or "data").expanduser()


def _file_digest(kind: type) -> str:
    """Of the file that a class is written in. Raises OSError or TypeError where there is none."""
    return hashlib.sha256(Path(inspect.getsourcefile(kind) or "").read_bytes()).hexdigest()
