"""A pack: image shards as litdata writes them, a folder a split, and one JSON that says what they hold.

The shards are written, fetched and mapped by litdata; nothing of its sampling or shuffling is used.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from datamodules.pixels import to_array
from lightning_gen.array_cache import checksum
from lightning_gen.errors import UserError
from lightning_gen.run_directory import sealed, unsealed

MANIFEST = "pack.json"

FORMAT = 2
"""Of a pack; to be raised whenever older code would misread it."""


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
    """A file of a split's folder, the examples in it, its size in bytes and its CRC-32, which each process checks once."""

    file: str
    examples: int
    bytes: int
    crc: int

    @classmethod
    def of(cls, file: Path, examples: int) -> Self:
        """A file that has been written."""
        return cls(file.name, examples, file.stat().st_size, checksum(file))

    def harm(self, folder: Path) -> str | None:
        """The fault of the file in a folder, as the end of a sentence; None for the file that was packed."""
        try:
            size = (folder / self.file).stat().st_size
        except FileNotFoundError:
            return "is missing"
        if size != self.bytes:
            return f"has {size} bytes, not {self.bytes}"
        return None if checksum(folder / self.file) == self.crc else "is damaged"


@dataclass(frozen=True)
class PackedSplit:
    """The shards of a split in their order, litdata's index of them, a file like theirs without examples, and what
    `Examples.fingerprint` says of the same images in memory.
    """

    shards: list[Shard]
    index: Shard
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
        return json.dumps(sealed({"format": FORMAT, **asdict(self)}), indent=1) + "\n"

    def digest(self) -> str:
        """20 hexadecimal digits that tell these files from those of any other pack."""
        files = {name: asdict(split) for name, split in self.splits.items()}
        said = json.dumps([self.shape, self.codec, files], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:20]

    @classmethod
    def read(cls, text: str, what: str) -> Manifest:
        """Of the content of a file, which messages call `what`.

        Raises:
            UserError: it is not that of a pack, or of another version's.
        """
        try:
            said = json.loads(text)
            version = said["format"]
            if version == FORMAT:
                said = unsealed(said)
                del said["format"]
                said["shape"] = tuple(said["shape"])
                for name, split in said["splits"].items():
                    shards = [Shard(**shard) for shard in split["shards"]]
                    said["splits"][name] = PackedSplit(shards, Shard(**split["index"]), split["fingerprint"])
                return cls(**said)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{what} is damaged: make the pack again with `lightning-gen pack`.") from error
        raise UserError(
            f"{what} is of format {version!r}, not {FORMAT}: make the pack again with `lightning-gen pack`."
        )
