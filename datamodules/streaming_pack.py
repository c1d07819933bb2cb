"""A pack: image shards as litdata writes them, a folder a split, and one JSON that says what they hold.

The shards are written, fetched and mapped by litdata; nothing of its sampling or shuffling is used.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.images import data_folder
from datamodules.pixels import to_array
from lightning_gen.array_cache import cache_folder
from lightning_gen.errors import UserError

MANIFEST = "pack.json"

FORMAT = 1
"""Of a pack; to be raised whenever older code would misread it."""

PATIENCE = 600.0
"""Seconds in which another process of this machine, which is fetching a shard, must have it."""


def require_litdata() -> None:
    """Raises UserError where it is not installed."""
    if importlib.util.find_spec("litdata") is None:
        raise UserError("packs of images need litdata: pip install 'lightning_gen[streaming]'")


# ---- images as bytes ----------------------------------------------------------------------------------------------


class Codec(ABC):
    """Images as bytes, without loss."""

    @abstractmethod
    def encode(self, image: np.ndarray) -> bytes:
        """Of an image, uint8 [C, H, W], contiguous."""

    @abstractmethod
    def decode(self, data: Any, shape: Sequence[int]) -> np.ndarray:
        """The image, uint8 of that shape, of what is like bytes."""


class Raw(Codec):
    """The greys as they are: the largest, and the fastest to read."""

    def encode(self, image: np.ndarray) -> bytes:
        return image.tobytes()

    def decode(self, data: Any, shape: Sequence[int]) -> np.ndarray:
        return np.frombuffer(data, np.uint8).reshape(shape)


class Png(Codec):
    """Deflated."""

    def encode(self, image: np.ndarray) -> bytes:
        target = BytesIO()
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        Image.fromarray(pixels).save(target, "PNG")
        return target.getvalue()

    def decode(self, data: Any, shape: Sequence[int]) -> np.ndarray:
        with Image.open(BytesIO(data)) as image:
            return to_array(image)


CODECS: dict[str, Codec] = {"raw": Raw(), "png": Png()}


# ---- what a pack says of itself -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """A file of a split's folder, the examples in it, and its size in bytes."""

    file: str
    examples: int
    bytes: int


@dataclass(frozen=True)
class PackedSplit:
    """The shards of a split in their order, and what `Examples.fingerprint` says of the same images in memory."""

    shards: list[Shard]
    fingerprint: str


@dataclass(frozen=True)
class Manifest:
    """What a pack holds.

    Attributes:
        shape: of an image, (C, H, W).
        class_names: label k is the k-th; empty where there are no labels.
        codec: how images are stored.
        settings: of the command that made it, and what tells its source from others.
    """

    shape: tuple[int, ...]
    class_names: list[str]
    codec: str
    splits: dict[str, PackedSplit]
    settings: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def read(cls, text: str, what: str) -> Manifest:
        """Of the content of a file, which messages call `what`.

        Raises:
            UserError: it is not that of a pack, or of another version's.
        """
        try:
            said = json.loads(text)
            version = said.pop("format")
            if version == FORMAT:
                said["shape"] = tuple(said["shape"])
                for name, split in said["splits"].items():
                    said["splits"][name] = PackedSplit([Shard(**s) for s in split["shards"]], split["fingerprint"])
                return cls(**said)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{what} is damaged: make the pack again with `lightning-gen pack`.") from error
        raise UserError(
            f"{what} is of format {version!r}, not {FORMAT}: make the pack again with `lightning-gen pack`."
        )


# ---- where a pack is ----------------------------------------------------------------------------------------------


class Place(ABC):
    """Where a pack is.

    Attributes:
        folder: on this machine, in which its files are, or come to be.
    """

    folder: Path
    manifest: Manifest

    @abstractmethod
    def provide(self, split: str, shard: Shard) -> None:
        """Sees to it that the file of a shard is there, whole."""


class Here(Place):
    """A pack in a folder of this machine, or of a file system that it shares with others.

    Raises:
        UserError: the folder holds no pack, or not all of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = folder / MANIFEST
        if not file.is_file():
            raise UserError(
                f"{folder} holds no pack of images (no {MANIFEST}): make one with `lightning-gen pack IMAGES --out {folder}`."
            )
        self.manifest = Manifest.read(file.read_text(), str(file))

    def provide(self, split: str, shard: Shard) -> None:
        file = self.folder / split / shard.file
        size = file.stat().st_size if file.exists() else None
        if size != shard.bytes:
            found = "is missing" if size is None else f"has {size} bytes, not {shard.bytes}"
            raise UserError(f"{file} {found}: copy the pack again, or make it again with `lightning-gen pack`.")


class Remote(Place):
    """A pack under a URL that litdata can read. Its shards are fetched when they are needed first, and kept.

    They lie below the cache, in a folder for each content, and the processes of a machine share them.

    Raises:
        UserError: it cannot be fetched.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        with tempfile.TemporaryDirectory(prefix="lightning_gen-") as folder:
            file = Path(folder, MANIFEST)
            self._fetch(MANIFEST, file)
            self.manifest = Manifest.read(file.read_text(), f"{self.url}/{MANIFEST}")
        content = "-".join(sorted(split.fingerprint for split in self.manifest.splits.values()))
        self.folder = cache_folder() / f"pack-{content}-{self.manifest.codec}"
        for split in self.manifest.splits:
            (self.folder / split).mkdir(parents=True, exist_ok=True)
            self._fetch(f"{split}/index.json", self.folder / split / "index.json")

    def provide(self, split: str, shard: Shard) -> None:
        self._fetch(f"{split}/{shard.file}", self.folder / split / shard.file)

    def _fetch(self, name: str, file: Path) -> None:
        from litdata.streaming.downloader import get_downloader

        deadline = time.monotonic() + PATIENCE
        while not file.exists():  # litdata leaves at once where another process is fetching the file
            try:
                get_downloader(self.url, str(file.parent), []).download_file(f"{self.url}/{name}", str(file))
            except Exception as error:  # of whatever library speaks to that store
                reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
                raise UserError(f"cannot fetch {self.url}/{name} for --data.init_args.path: {reason}.") from error
            if not file.exists():
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{file} is being fetched by another process for {PATIENCE:.0f} s: delete {file}.lock"
                    )
                time.sleep(0.1)


def find(path: str, root: str | None = None) -> Place:
    """The pack at a URL or in a folder; a relative one is looked for here, then below the root.

    Raises:
        UserError: there is none.
    """
    if "://" in path or path.startswith("local:"):
        require_litdata()
        return Remote(path)
    places = list(dict.fromkeys((Path(path).expanduser(), data_folder(root) / path)))
    for place in places:
        if place.exists():
            return Here(Path(os.path.abspath(place)))
    raise UserError(
        f"there is no pack {' and no '.join(str(place.absolute()) for place in places)}: name the folder that "
        "`lightning-gen pack` made by --data.init_args.path."
    )
