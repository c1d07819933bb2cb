"""Where a pack is: a folder, or a URL whose shards are fetched as training comes to them."""

from __future__ import annotations

import os
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from datamodules.images import data_folder
from datamodules.streaming_pack import MANIFEST, Manifest, Shard, require_litdata
from datamodules.streaming_workers import beside
from lightning_gen.array_cache import cache_folder
from lightning_gen.errors import UserError
from lightning_gen.run_lock import alone

PATIENCE = 600.0
"""Seconds in which another process of this machine, which is fetching a shard, must have it."""


class Place(ABC):
    """Where a pack is.

    Attributes:
        folder: on this machine, in which its files are, or come to be.
    """

    folder: Path
    manifest: Manifest

    @abstractmethod
    def provide(self, split: str, shard: Shard) -> None:
        """Sees to it that the file of a shard, or of the index of them, is there, and is what was packed."""

    @abstractmethod
    def announce(self, split: str, shards: Sequence[Shard]) -> None:
        """Hears which shards will be needed next, and returns at once."""


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
        if (harm := shard.harm(self.folder / split)) is not None:
            raise UserError(
                f"{self.folder / split / shard.file} {harm}: copy the pack again, or make it again with `lightning-gen pack`."
            )

    def announce(self, split: str, shards: Sequence[Shard]) -> None:
        """They are here."""


class Remote(Place):
    """A pack under a URL that litdata can read. Its shards are fetched when they are needed first, and kept.

    They lie below the cache, in a folder for each content cut into these shards, and the processes of a machine share
    them. What is announced is fetched beside the training.

    Raises:
        UserError: it cannot be fetched.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        with tempfile.TemporaryDirectory(prefix="lightning_gen-") as folder:
            file = Path(folder, MANIFEST)
            self._fetch(MANIFEST, file)
            self.manifest = Manifest.read(file.read_text(), f"{self.url}/{MANIFEST}")
        self.folder = cache_folder() / f"pack-{self.manifest.digest()}"
        for split in self.manifest.splits:
            (self.folder / split).mkdir(parents=True, exist_ok=True)

    def provide(self, split: str, shard: Shard) -> None:
        name, folder = f"{split}/{shard.file}", self.folder / split
        self._fetch(name, folder / shard.file)
        if shard.harm(folder) is None:
            return
        with alone(self.folder / f".{split}.lock"):
            if shard.harm(folder) is not None:  # still: no other process has mended it
                (folder / shard.file).unlink(missing_ok=True)
                self._fetch(name, folder / shard.file)
            if (harm := shard.harm(folder)) is not None:
                (folder / shard.file).unlink(missing_ok=True)
                raise UserError(
                    f"{self.url}/{name} {harm}: copy the pack there again, or make it again with `lightning-gen pack`."
                )

    def announce(self, split: str, shards: Sequence[Shard]) -> None:
        missing = [shard for shard in shards if _size(self.folder / split / shard.file) != shard.bytes]
        if missing:
            beside(self._provide_all, split, missing)

    def _provide_all(self, split: str, shards: Sequence[Shard]) -> None:
        for shard in shards:
            self.provide(split, shard)

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


def _size(file: Path) -> int | None:
    """In bytes; None where there is no such file."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None


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
