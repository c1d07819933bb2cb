"""Folders of images, or a zip of them: a folder for each class, in train/, val/ and test/ if there are such."""

from __future__ import annotations

import os
import sys
import time
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from datamodules.image_files import SUFFIXES, Archive, Files, Folder
from datamodules.images import ImageData, Images
from datamodules.pixels import UnknownRange, eight_bits, square, to_array
from lightning_gen.errors import UserError

PARTS = ("train", "val", "test")

TASK = 64
"""Images a thread decodes at a time."""

PATIENCE = 5.0
"""Seconds between lines that say how far the decoding is."""


class ImageFolder(ImageData):
    """Images of any format and size, one folder a class, classes by name; images in no class folder have no labels.

    Sixteen bits become eight, images are turned upright by their EXIF orientation, and what is transparent lies on
    black. Without val/, a tenth of the training images is cut off for it; without test/, another tenth.

    Args:
        path: of a folder or a zip; a relative one is looked for here, then below the root. In it are class folders, or
            train/, val/ and test/ with class folders in them.
        grey: read one channel, else three.
        kwargs: of `ImageData`. Images of differing sizes need `resize`.
    """

    held_out = {"val": Fraction(1, 10), "test": Fraction(1, 10)}  # noqa: RUF012
    how_to_name = (
        "name the images by --data.init_args.path, the folder above them by --data.init_args.root or LIGHTNING_GEN_DATA"
    )
    how_to_resize = "give --data.init_args.resize"

    def __init__(self, path: str, grey: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.grey = grey

    @cached_property
    def native_shape(self) -> tuple[int, int, int]:
        if self.resize is not None:
            return (1 if self.grey else 3, self.resize, self.resize)
        return tuple(self._decode(self._members["train"][0][0]).shape)

    @property
    def native_classes(self) -> int | None:
        return len(self.class_names) or None

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the class folders, sorted: label k is the k-th; empty where there are none."""
        names = {part: {name for _, name in members if name is not None} for part, members in self._members.items()}
        for part, members in self._members.items():
            if names["train"] and any(label is None for _, label in members):
                raise UserError(
                    f"{self._files.path}: {part}/ has no class folders, but train/ has: make them, or move it."
                )
            if extra := sorted(names[part] - names["train"]):
                raise UserError(f"{self._files.path}: {part}/ has a class {extra[0]!r} that train/ has not.")
        return tuple(sorted(names["train"]))

    @cached_property
    def _files(self) -> Files:
        places = list(dict.fromkeys((Path(self.path).expanduser(), self.folder / self.path)))
        for place in places:
            if place.exists():
                return Folder(place) if place.is_dir() else Archive(place)
        raise UserError(
            f"there is no {' and no '.join(str(place.absolute()) for place in places)}: {self.how_to_name}."
        )

    @cached_property
    def _members(self) -> dict[str, list[tuple[str, str | None]]]:
        """{part: [(file, name of its class)]}."""
        split = {name: name.split("/") for name in self._files.stamps}
        tops = {steps[0] for steps in split.values() if len(steps) > 1}
        # a class may be called "train": then it holds images and no class folders, and has other classes beside it
        divided = "train" in tops and (
            tops <= set(PARTS) or any(steps[0] == "train" and len(steps) > 2 for steps in split.values())
        )
        members: dict[str, list[tuple[str, str | None]]] = {}
        for name, steps in split.items():
            part, below = (steps[0], steps[1:]) if divided else ("train", steps)
            if part in PARTS:
                members.setdefault(part, []).append((name, below[0] if len(below) > 1 else None))
        if not members:
            raise UserError(f"{self._files.path} holds no images ({', '.join(SUFFIXES)}).")
        for part, found in members.items():  # beside class folders, a lone image is a stray one: an icon, a preview
            if any(label is not None for _, label in found):
                members[part] = [(name, label) for name, label in found if label is not None]
        return {part: members[part] for part in PARTS if part in members}

    def parts(self) -> Sequence[str]:
        return tuple(self._members)

    def identity(self) -> Any:
        return [self.grey, list(self._files.stamps.items())]

    def read(self, part: str) -> Images:
        members = self._members[part]
        x = np.empty((len(members), *self.native_shape), dtype=np.uint8)

        def task(first: int) -> int:
            for row, (name, _) in enumerate(members[first : first + TASK], first):
                x[row] = self.image(name)
            return min(first + TASK, len(members))

        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            said = time.monotonic()
            for done in pool.map(task, range(0, len(members), TASK)):  # in order: the first file at fault is named
                if time.monotonic() - said > PATIENCE:
                    said = time.monotonic()
                    print(f"{self._files.path.name}: {done} of {len(members)} images of {part} read", file=sys.stderr)
        return torch.from_numpy(x), self.labels(part)

    def labels(self, part: str) -> torch.Tensor | None:
        """Of a part's images in their order, int64 [N]; None where there are no classes."""
        if not self.class_names:
            return None
        number = {name: k for k, name in enumerate(self.class_names)}
        return torch.tensor([number[label] for _, label in self._members[part]])

    def image(self, name: str) -> np.ndarray:
        """An image, uint8 [C, H, W] of `native_shape`; called by many threads at once."""
        image, size = self._decode(name), self.native_shape
        if image.shape != size:
            raise UserError(
                f"{self._files.path}: {name} has {image.shape[1]}x{image.shape[2]} pixels, others have "
                f"{size[1]}x{size[2]}: {self.how_to_resize}."
            )
        return image

    def _decode(self, name: str) -> np.ndarray:
        """An image, uint8 [C, H, W], resized if it must be."""
        try:
            with Image.open(BytesIO(self._files.read(name))) as file:
                image = eight_bits(file, self.grey)
        except UnknownRange as error:
            raise UserError(
                f"{self._files.path}: the image {name} holds {error}: convert it to a PNG of 8 or 16 bits."
            ) from error
        except (OSError, SyntaxError, ValueError, EOFError, zipfile.BadZipFile, zlib.error,
                Image.DecompressionBombError) as error:  # fmt: skip
            raise UserError(f"{self._files.path}: the image {name} cannot be read: remove or replace it.") from error
        if self.resize is not None and image.size != (self.resize, self.resize):
            image = square(image, self.resize)
        return to_array(image)
