"""Image files below a place, in a folder or in a zip. Nothing of what the images show."""

from __future__ import annotations

import os
import threading
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path

from lightning_gen.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")


class Files(ABC):
    """The image files below a place.

    Attributes:
        path: of the place.
        stamps: {name relative to the place, with slashes: primitives that change with the file's content}, sorted.
    """

    path: Path
    stamps: dict[str, tuple[int, int]]

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file; called by many threads at once."""


class Folder(Files):
    """The images in a folder and those below it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = {}
        for folder, _, names in os.walk(path, followlinks=True):
            for file in (Path(folder, name) for name in names):
                if _is_image(name := file.relative_to(path).as_posix()):
                    try:
                        stat = file.stat()
                    except OSError as error:
                        raise UserError(f"{path}: {name} is a link that leads nowhere: remove or mend it.") from error
                    found[name] = (stat.st_size, stat.st_mtime_ns)
        self.stamps = dict(sorted(found.items()))

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


class Archive(Files):
    """The images in a zip. A folder that holds all there is, as archives often have one, is not part of the names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{path} cannot be read as a zip ({error}): is it complete?") from error
        self._lock = threading.Lock()  # threads that open files of one archive miscount its references
        found = {info.filename: (info.file_size, info.CRC) for info in self._zip.infolist() if _is_image(info.filename)}
        wrapper = os.path.commonpath(found) if found else ""
        while wrapper and not all("/" in name[len(wrapper) + 1 :] for name in found):  # class folders stay
            wrapper = os.path.dirname(wrapper)
        self._prefix = f"{wrapper}/" if wrapper else ""
        self.stamps = {name.removeprefix(self._prefix): found[name] for name in sorted(found)}

    def read(self, name: str) -> bytes:
        try:
            with self._lock:
                return self._zip.read(self._prefix + name)
        except RuntimeError as error:  # NotImplementedError, of its compression, is one too
            why = (
                "packed by a method that Python cannot read" if isinstance(error, NotImplementedError) else "encrypted"
            )
            raise UserError(f"{self.path}: {name} is {why}: unpack the archive and name the folder.") from error


def _is_image(name: str) -> bool:
    """Whether a name is that of an image, and no part of it hidden or what macOS leaves in archives."""
    steps = name.split("/")
    return name.lower().endswith(SUFFIXES) and not any(step.startswith(".") or step == "__MACOSX" for step in steps)
