"""The base of the image data sets: source images made into splits of integers once, augmentation on the device."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from datamodules.base import DataModule, Examples
from datamodules.binarization import Binarization
from datamodules.cache import Arrays, cached
from datamodules.stratify import stratified_order
from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource, derive_seed
from lightning_gen.specs import describe

FORMAT = 1
"""Of what is made of a source; to be raised whenever equal settings would give other integers."""

CHUNK = 4096
"""Images that bits are drawn for at a time."""

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

    Raises:
        UserError: settings that cannot be; a source that is not there or cannot be read.
    """

    native_shape: tuple[int, int, int]
    native_classes: int | None
    held_out: dict[str, Fraction]

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
        return Path(self.root or os.environ.get("LIGHTNING_GEN_DATA") or "data").expanduser()

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
        made_by = {name: getattr(self, name) for name in ("resize", "pad", "levels", "classes", "split_seed")}
        key = [FORMAT, type(self).__qualname__, made_by, describe(self.binarization), self.identity()]
        arrays = cached(type(self).__name__.lower(), key, self._make)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        splits = {}
        for name, x in tensors.items():
            name, _, kind = name.partition(".")
            if kind == "x":
                splits[name] = self._first(name, Examples(x, tensors.get(f"{name}.y")))
        if "train.greys" in tensors:
            self._greys = self._first("train", Examples(tensors["train.greys"], tensors.get("train.y")))
        return splits

    def training_examples(self) -> Examples:
        train = self.split("train")
        return train if self._greys is None else self._greys

    def augment(self, x: Tensor, rng: RandomSource) -> Tensor:
        if self.horizontal_flip:
            chosen = rng.uniform((len(x), 1, 1, 1)) < 0.5
            x = x + chosen * (x.flip(-1) - x)  # modulo 256 this is exact, and a quarter of the time of `torch.where`
        if self.binarization is not None and self.binarization.fresh:
            x = self.binarization.draw(x, rng)
        return x

    # ---- from the source to splits --------------------------------------------------------------------------------

    def cut(self, labels: dict[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
        """{split: (part of the source, its images, int64)}, of all classes, from each part's labels [N]."""
        splits = {}
        for part, y in labels.items():
            names = [name for name in self.held_out if part == "train" and name not in labels]
            sizes = [max(1, int(len(y) * self.held_out[name])) for name in names]
            keys = (self.split_seed,) if names else ()  # a part that nothing is cut off never changes
            order = stratified_order(y, derive_seed("split", part, *keys))
            for name, index in zip([*names, part], order.split([*sizes, max(0, len(y) - sum(sizes))])):
                splits[name] = (part, index)
        return splits

    def _make(self) -> Arrays:
        """The arrays of all splits: NAME.x, NAME.y if there are labels, and train.greys if training draws bits."""
        sources = {part: self.read(part) for part in self.parts()}
        labels = {part: torch.zeros(len(x)).long() if y is None else y for part, (x, y) in sources.items()}
        fresh = self.binarization is not None and self.binarization.fresh
        arrays: Arrays = {}
        splits = self.cut(labels)
        for part in list(sources):
            x, y = sources.pop(part)
            greys = functional.pad(resize_images(x, self.resize), [self.pad] * 4) if self.resize or self.pad else x
            values = self._encode(greys, part)
            for name, index in ((name, index) for name, (of, index) in splits.items() if of == part):
                if self.classes is not None:
                    index = index[torch.isin(labels[part][index], torch.tensor(self.classes))]
                if len(index) == 0:
                    raise UserError(f"{type(self).__name__} has too few images: the split {name!r} is empty.")
                arrays[f"{name}.x"] = values[index].numpy()
                if name == "train" and fresh:
                    arrays["train.greys"] = greys[index].numpy()
                if y is not None:
                    arrays[f"{name}.y"] = self._relabel(y[index]).numpy()
        return arrays

    def _encode(self, greys: Tensor, part: str) -> Tensor:
        """Greys [N, C, H, W], all of a part, as integers {0..levels-1}."""
        if self.binarization is None:
            return quantize(greys, self.levels)
        values = torch.empty_like(greys)
        for rows in torch.arange(len(greys)).split(CHUNK):  # the draws of a chunk are floats
            values[rows[0] : rows[-1] + 1] = self.binarization.fixed(greys[rows[0] : rows[-1] + 1], rows, part)
        return values

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


def quantize(x: Tensor, levels: int) -> Tensor:
    """floor(x levels / 256), uint8 {0..levels-1}, of greys `x` uint8."""
    if levels == 256:
        return x
    table = (np.arange(256) * levels // 256).astype(np.uint8)
    return torch.from_numpy(table[x.numpy()])


def square(image: Image.Image, side: int) -> Image.Image:
    """The central square of an image, resized to `side` (bicubic; when it shrinks, over all pixels it covers)."""
    width, height = image.size
    edge = min(width, height)
    if width != height:  # not by `resize(box=...)`, which looks at the pixels around the box
        left, top = (width - edge) // 2, (height - edge) // 2
        image = image.crop((left, top, left + edge, top + edge))
    return image.resize((side, side), Image.Resampling.BICUBIC)


def to_array(image: Image.Image) -> np.ndarray:
    """uint8 [C, H, W] of an image of mode L or RGB."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def resize_images(x: Tensor, side: int | None) -> Tensor:
    """Images uint8 [N, C, H, W] with C = 1 or 3, each made `square`; as they are where they have that size."""
    if side is None or x.shape[-2:] == (side, side):
        return x
    out = np.empty((*x.shape[:2], side, side), dtype=np.uint8)
    pixels = x.permute(0, 2, 3, 1).contiguous().numpy()
    for row, image in enumerate(pixels.squeeze(-1) if x.shape[1] == 1 else pixels):
        out[row] = to_array(square(Image.fromarray(image), side))
    return torch.from_numpy(out)
