"""Image files below a place, in a folder or in a zip. Nothing of what the images show."""

from __future__ import annotations

import os
import posixpath
import stat
import threading
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

from lightning_gen.errors import UserError

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".apng", ".bmp", ".gif", ".webp", ".avif", ".tif", ".tiff"),
    *(".tga", ".pgm", ".ppm", ".pbm", ".pnm"),
)

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""{folder name in lower case: the part of a data set that such a folder holds}."""

LABELS = "dataset.json"
"""Name of the file that holds the labels in the folders of StyleGAN and EDM."""


class Files(ABC):
    """The image files below a place, and the label files.

    Names are relative to the place, with slashes. A folder that holds all there is, as archives often have one, is no
    part of them. Hidden files are passed over, and so is what macOS leaves in archives.

    Attributes:
        path: of the place.
        stamps: {name: primitives that change with the file's content}, sorted.
        folders: names of the folders that hold files, or nothing at all.
        others: names of files that are no images.
    """

    path: Path
    stamps: dict[str, tuple[int, int]]
    folders: set[str]
    others: list[str]

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self.path = path
        names = [name for name in names if not _hidden(name)]
        found = sorted(name for name in names if _wanted(name))
        split = [name.split("/") for name in found]
        depth = 0
        while split and all(len(steps) > depth + 2 for steps in split) and len({steps[depth] for steps in split}) == 1:
            if split[0][depth].lower() in PARTS:  # class folders and parts stay
                break
            depth += 1
        self._wrapper = "".join(f"{step}/" for step in split[0][:depth]) if split else ""
        inside = [name.removeprefix(self._wrapper) for name in names if name.startswith(self._wrapper)]
        self.folders = {posixpath.dirname(name) for name in inside} - {""}
        self.others = sorted(name for name in inside if name and not name.endswith("/") and not _wanted(name))
        self.stamps = {name: self.stamp(name) for name in (name.removeprefix(self._wrapper) for name in found)}

    @abstractmethod
    def stamp(self, name: str) -> tuple[int, int]:
        """Primitives that change with a file's content."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file; called by many threads at once."""


class Folder(Files):
    """The images in a folder and those below it, links followed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, self._walk(path))

    @staticmethod
    def _walk(path: Path) -> Iterable[str]:
        def fail(error: OSError) -> None:
            raise UserError(f"{path}: {error.filename} cannot be read ({error.strerror}).") from error

        seen: dict[str, str] = {}
        for folder, below, names in os.walk(path, followlinks=True, onerror=fail):
            below[:] = sorted(name for name in below if not _hidden(name))
            here = Path(folder).relative_to(path).as_posix()
            if (first := seen.setdefault(os.path.realpath(folder), here)) != here:
                raise UserError(f"{path}: {here} and {first} are one folder (a link): its images would count twice.")
            yield from (posixpath.normpath(f"{here}/{name}") for name in names)
            yield from (posixpath.normpath(f"{here}/{name}") + "/" for name in below)

    def stamp(self, name: str) -> tuple[int, int]:
        try:
            info = (self.path / self._wrapper / name).stat()
        except OSError as error:
            raise UserError(f"{self.path}: {name} is a link that leads nowhere: remove or mend it.") from error
        if not stat.S_ISREG(info.st_mode):
            raise UserError(f"{self.path}: {name} is no file but a pipe, socket or device: remove it.")
        return (info.st_size, info.st_mtime_ns)

    def read(self, name: str) -> bytes:
        return (self.path / self._wrapper / name).read_bytes()


class Archive(Files):
    """The images in a zip, whatever made it: names may have backslashes, or begin with ./ or /."""

    def __init__(self, path: Path) -> None:
        try:
            if not path.is_file():
                raise OSError("it is no file")
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{path} cannot be read as a zip ({error}): is it complete?") from error
        self._lock = threading.Lock()  # threads that open files of one archive miscount its references
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            name = info.filename.replace("\\", "/")
            end = "/" if name.endswith("/") else ""
            name = posixpath.normpath(f"/{name}").lstrip("/") + end
            if name in self._infos and _wanted(name) and not _hidden(name):
                raise UserError(f"{path} holds {name} twice: unpack the archive and name the folder.")
            self._infos[name] = info
        super().__init__(path, self._infos)

    def stamp(self, name: str) -> tuple[int, int]:
        info = self._infos[self._wrapper + name]
        return (info.file_size, info.CRC)

    def read(self, name: str) -> bytes:
        try:
            with self._lock:
                return self._zip.read(self._infos[self._wrapper + name])
        except RuntimeError as error:  # NotImplementedError, of its compression, is one too
            why = (
                "packed by a method that Python cannot read" if isinstance(error, NotImplementedError) else "encrypted"
            )
            raise UserError(f"{self.path}: {name} is {why}: unpack the archive and name the folder.") from error


def _wanted(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) or posixpath.basename(name) == LABELS


def _hidden(name: str) -> bool:
    return any(step.startswith(".") or step == "__MACOSX" for step in name.split("/"))
