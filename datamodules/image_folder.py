"""Folders of images, or a zip of them: a folder for each class, in train/, val/ and test/ if there are such."""

from __future__ import annotations

import functools
import json
import mimetypes
import os
import posixpath
import sys
import time
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from datamodules.image_files import LABELS, PARTS, SUFFIXES, Archive, Files, Folder
from datamodules.images import ImageData, Images
from datamodules.pixels import UnknownRange, eight_bits, square, to_array
from lightning_gen.errors import UserError

MOST_CLASSES = 2**16
"""That a label file may name."""

TASK = 64
"""Images a thread decodes at a time."""

PATIENCE = 5.0
"""Seconds between lines that say how far the decoding is."""


class ImageFolder(ImageData):
    """Images of any format and size, one folder a class, classes by name; images in no class folder have no labels.

    Sixteen bits become eight, images are turned upright by their EXIF orientation, what is transparent lies on black,
    CMYK becomes RGB, and of an animation the first frame is read. Without val/, a tenth of the training images is cut
    off for it; without test/, another tenth. The label file of StyleGAN and EDM, dataset.json, counts where it is.

    Args:
        path: of a folder or a zip; a relative one is looked for here, then below the root. In it are class folders, or
            train/, val/ (or valid/, validation/) and test/ with class folders in them. What that leaves to guess is
            printed in one line: folders that are taken for classes without a train/, no labels, images passed over.
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
        """Names of the class folders, sorted: label k is the k-th; empty where there are no labels."""
        if self._written is not None:
            return tuple(str(k) for k in range(1 + max(self._written.values(), default=-1)))
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
    def _written(self) -> dict[str, int] | None:
        """{image: label} of StyleGAN's and EDM's label files; None where there are none, empty where they give none."""
        found: dict[str, int] | None = None
        for file in (name for name in self._files.stamps if posixpath.basename(name) == LABELS):
            where = f"{self._files.path}: {file}"
            try:
                content = json.loads(self._files.read(file))
                if "labels" not in content:
                    continue  # another program's
                pairs = [(name.replace("\\", "/"), k) for name, k in content["labels"] or []]
            except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
                form = '{"labels": [[image, label], ...]}'
                raise UserError(f"{where} is no label file of StyleGAN or EDM, {form}: mend or remove it.") from error
            for name, k in pairs:
                if type(k) is not int or not 0 <= k < MOST_CLASSES:
                    raise UserError(f"{where}: the label of {name} is {k!r}, must be from 0 to {MOST_CLASSES - 1}.")
            found = (found or {}) | {posixpath.join(posixpath.dirname(file), name): k for name, k in pairs}
        return found

    @cached_property
    def _members(self) -> dict[str, list[tuple[str, str | None]]]:
        """{part: [(file, name of its class)]}."""
        place, written = self._files.path, self._written
        split = {name: name.split("/") for name in self._files.stamps if posixpath.basename(name) != LABELS}
        if not split:
            raise UserError(f"{place} holds no images ({', '.join(SUFFIXES)}).")
        tops = sorted({steps[0] for steps in split.values() if len(steps) > 1})
        part_of = {top: PARTS[top.lower()] for top in tops if top.lower() in PARTS}
        # a class may be called "train": then it holds images and no class folders, and has other classes beside it
        divided = len(part_of) == len(tops) > 0 or any(
            part_of.get(steps[0]) == "train" and len(steps) > 2 for steps in split.values()
        )
        if not divided:
            part_of = dict.fromkeys([*tops, ""], "train")
        elif "train" not in part_of.values():
            raise UserError(f"{place} has {tops[0]}/ and no train/: name the folder of the training images train.")
        elif len(set(part_of.values())) < len(part_of):
            raise UserError(f"{place} has {' and '.join(part_of)}, of which two are one part of the data: rename one.")
        members: dict[str, list[tuple[str, str | None]]] = {}
        for name, steps in split.items():
            below = steps[1:] if divided else steps
            if part := part_of.get(steps[0] if len(steps) > 1 else ""):
                members.setdefault(part, []).append((name, below[0] if len(below) > 1 else None))
        for part, found in members.items():
            if written is not None:
                if missing := [name for name, _ in found if written and name not in written]:
                    raise UserError(f"{place}: {LABELS} has no label of {missing[0]}: add it, or remove {LABELS}.")
                members[part] = [(name, str(written[name]) if written else None) for name, _ in found]
            elif any(label is not None for _, label in found):
                # beside class folders, a lone image is a stray one: an icon, a preview
                members[part] = [(name, label) for name, label in found if label is not None]
        self._say_what_was_guessed(members, divided, split)
        return {part: members[part] for part in ("train", "val", "test") if part in members}

    def _say_what_was_guessed(self, members: Any, divided: bool, images: Iterable[str]) -> None:
        """Prints, once a process, how folders without train/ are understood, and what is passed over."""
        said, files, classes = [], self._files, {label for _, label in members["train"]} - {None}
        if not classes:
            said.append("no labels, as there are no class folders" if self._written is None else "no labels")
        elif self._written is None and not divided:
            said.append(f"there is no train/, so its {len(classes)} folders are the classes ({_few(classes)})")
        alive = {name.rsplit("/", depth)[0] for name in images for depth in range(1, name.count("/") + 1)}
        if empty := {folder for folder in files.folders if folder.count("/") <= divided} - alive:
            said.append(f"no images in {_few(empty)}")
        used = {name for found in members.values() for name, _ in found}
        if stray := [name for name in images if name not in used]:
            said.append(
                f"passed over {len(stray)} images outside of the class folders or of train/, val/, test/ ({_few(stray)})"
            )
        if unread := [name for name in files.others if (mimetypes.guess_type(name)[0] or "").startswith("image/")]:
            said.append(f"passed over {len(unread)} images of formats that are not read ({_few(unread)})")
        if said and rank_zero_only.rank == 0:
            _print_once(f"{files.path}: {'; '.join(said)}")

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
                f"{self._files.path}: the image {name} holds {error}: convert it to a PNG of 8 bits."
            ) from error
        except Image.DecompressionBombError as error:
            raise UserError(
                f"{self._files.path}: the image {name} has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels, the most that "
                "Pillow reads: make it smaller."
            ) from error
        except (OSError, SyntaxError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{self._files.path}: the image {name} cannot be read: remove or replace it.") from error
        if self.resize is not None and image.size != (self.resize, self.resize):
            image = square(image, self.resize)
        return to_array(image)


@functools.cache
def _print_once(text: str) -> None:
    print(text, file=sys.stderr)


def _few(names: Iterable[str], num: int = 3) -> str:
    names = sorted(names)
    return ", ".join([*names[:num], *["..."] * (len(names) > num)])
