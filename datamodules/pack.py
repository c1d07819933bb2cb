"""The command that packs a folder or a zip of images into shards: `lightning-gen pack IMAGES --out DIR`."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.image_folder import TASK, ImageFolder
from datamodules.loaders import ContentHash
from datamodules.streaming_pack import CODECS, MANIFEST, Codec, Manifest, PackedSplit, Shard, require_litdata
from lightning_gen.errors import UserError
from lightning_gen.evaluation.progress import Progress
from lightning_gen.run_directory import sync

LARGEST = 2048
"""Megabytes of a shard; its offsets have 32 bits."""


def pack(
    images: str,
    out: Path | None = None,
    resize: int | None = None,
    grey: bool = False,
    format: Literal["raw", "png"] = "raw",
    shard_mb: float = 64.0,
    split_seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Pack a folder or a zip of images into shards that `datamodules.StreamedImages` streams.

    Folders, classes, splits and pixels are those of `datamodules.ImageFolder` with the same settings; so is the order of
    a split, in which every shard has every class in its share. A pack appears under its name when it is whole; a command
    that was cut starts anew when it is given again, and one that is done does nothing.

    Args:
        images: a folder or a zip with class folders, or train/, val/ and test/ with class folders in them.
        out: the folder of the pack, NAME_packed by default.
        resize: the central square of each image is resized to this side; needed where sizes differ.
        grey: read one channel, else three.
        format: raw greys, which are read fastest, or png, which takes less room. Both are without loss.
        shard_mb: megabytes of a shard: what is fetched, and kept in reach, at once.
        split_seed: which images are held out where the source has no val/ or no test/.
        workers: threads that decode; by default one for each processor, at most 16.

    Returns:
        The folder of the pack.

    Raises:
        UserError: images that cannot be read, another pack or other files under that name, no room.
    """
    require_litdata()
    if not 0 < shard_mb <= LARGEST:
        raise UserError(f"--shard_mb must be above 0 and at most {LARGEST}, not {shard_mb}.")
    if workers is not None and workers < 1:
        raise UserError(f"--workers must be at least 1, not {workers}.")
    source = Source(images, grey=grey, resize=resize, split_seed=split_seed)
    folder = Path(f"{source.name}_packed") if out is None else out.expanduser()
    settings = {
        **{"images": images, "resize": resize, "grey": grey, "shard_mb": shard_mb, "split_seed": split_seed},
        "source": source.digest(),
    }
    if _done(folder, settings, format):
        print(f"{folder} is packed already")
        return folder
    threads = workers or min(16, os.cpu_count() or 1)
    with _replacing(folder) as partial, ThreadPoolExecutor(threads) as pool, Progress() as show:
        splits = {}
        for name, members, y in source.splits():
            split = _Writer(partial / name, source.shape, CODECS[format], int(shard_mb * 2**20))
            advance = show.stage(f"images of {name}", len(members))
            splits[name] = split.write(
                _made(source, members, CODECS[format], pool, 2 * threads), len(members), y, advance
            )
        manifest = Manifest(source.shape, list(source.class_names), format, splits, settings)
        with _writing(partial):
            (partial / MANIFEST).write_text(manifest.text())
    for name, split in splits.items():
        num, size = (sum(getattr(shard, key) for shard in split.shards) for key in ("examples", "bytes"))
        print(f"{name}: {num} images in {len(split.shards)} shards, {size / 2**20:.1f} MB")
    return folder


class Source(ImageFolder):
    """The images, split as `ImageFolder` splits them, named one by one."""

    how_to_name = "name a folder or a zip of images, here or below LIGHTNING_GEN_DATA"
    how_to_resize = "give --resize"

    @property
    def name(self) -> str:
        return self._files.path.absolute().stem

    def digest(self) -> str:
        """16 hexadecimal digits that change when a file does; nothing is decoded."""
        return hashlib.sha256(json.dumps(list(self._files.stamps.items())).encode()).hexdigest()[:16]

    def splits(self) -> Iterator[tuple[str, list[str], Tensor | None]]:
        """(split, its images, their labels int64 [N] or None)."""
        for part in self.parts():
            names, y = [name for name, _ in self._members[part]], self.labels(part)
            for split, index in self.cut(part, torch.zeros(len(names), dtype=torch.int64) if y is None else y).items():
                self._refuse_empty(split, len(index))
                yield split, [names[k] for k in index.tolist()], None if y is None else y[index]


def _made(
    source: Source, names: list[str], codec: Codec, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[np.ndarray, bytes]]:
    """(image, its bytes) of each name in order, decoded by the pool's threads at most `ahead` tasks before they are used."""

    def task(some: list[str]) -> list[tuple[np.ndarray, bytes]]:
        images = [np.ascontiguousarray(source.image(name)) for name in some]
        return [(image, codec.encode(image)) for image in images]

    tasks = (names[first : first + TASK] for first in range(0, len(names), TASK))
    waiting = deque(pool.submit(task, some) for some in islice(tasks, ahead))
    try:
        while waiting:
            yield from waiting.popleft().result()
            waiting.extend(pool.submit(task, some) for some in islice(tasks, 1))
    finally:
        for future in waiting:
            future.cancel()


class _Writer:
    """Writes the shards of one split."""

    def __init__(self, folder: Path, shape: tuple[int, ...], codec: Codec, shard_bytes: int) -> None:
        self.folder, self.shape, self.codec, self.shard_bytes = folder, shape, codec, shard_bytes

    def write(
        self, made: Iterable[tuple[np.ndarray, bytes]], num: int, y: Tensor | None, advance: Callable[[int], Any]
    ) -> PackedSplit:
        """Of `num` images with their bytes, and labels int64 [num] or None."""
        from litdata.streaming import Cache

        digest = ContentHash()
        digest.column(torch.uint8, (num, *self.shape))
        labels = None if y is None else y.tolist()
        with _writing(self.folder):
            cache = Cache(str(self.folder), chunk_bytes=self.shard_bytes)
        for row, (image, data) in enumerate(made):
            digest.rows(image)
            with _writing(self.folder):
                cache[row] = (data,) if labels is None else (data, labels[row])
            advance(1)
        if y is None:
            digest.no_column()
        else:
            digest.column(y.dtype, y.shape)
            digest.rows(y.view(torch.uint8).numpy())
        with _writing(self.folder):
            cache.done()
            cache.merge()
            index = json.loads((file := self.folder / "index.json").read_text())
            file.write_text(json.dumps({**index, "updated_at": "0"}))  # no time: equal images make equal packs
            shards = [Shard.of(self.folder / chunk["filename"], chunk["chunk_size"]) for chunk in index["chunks"]]
            return PackedSplit(shards, Shard.of(file, 0), digest.hexdigest())


def _done(folder: Path, settings: dict[str, Any], codec: str) -> bool:
    """Whether the pack is there already.

    Raises:
        UserError: something else is.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    file = folder / MANIFEST
    if not file.is_file():
        raise UserError(f"{folder} is there already and is no pack: give another --out.")
    found = Manifest.read(file.read_text(), str(file))
    same = json.loads(json.dumps({**settings, "format": codec}))
    other = {**found.settings, "format": found.codec}
    if different := [key for key in ("source", *same) if same[key] != other.get(key) and key != "images"]:
        what = "other images" if different[0] == "source" else f"{different[0]} {other.get(different[0])!r}"
        raise UserError(f"{folder} is a pack of {what}: give another --out, or delete it.")
    return True


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place at the end, and goes if there is none.

    Raises:
        UserError: another command is writing it.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    with _writing(partial):
        partial.mkdir(parents=True, exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another command is writing {folder}: wait for it, or give another --out.") from error
        except OSError:  # a file system without locks
            pass
        for left in partial.iterdir():  # by a command that was cut
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            yield partial
            with _writing(partial):
                for file in sorted(partial.rglob("*")):  # the name must not outlive the content when the power goes
                    sync(file)
                partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(lock)


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {place}: {error.strerror or error}; give another --out.") from error
