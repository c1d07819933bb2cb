"""Image data sets that torchvision downloads and reads."""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import struct
import tarfile
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from datamodules.images import ImageData, Images
from lightning_gen.errors import UserError
from lightning_gen.run_lock import alone

TIMEOUT = 20.0
"""Seconds without an answer after which a download is given up."""


LOCK = ".download.lock"
"""File in the root while something is downloaded to it."""


class DownloadedImages(ImageData):
    """A data set of `torchvision.datasets` with a training and a test part, in torchvision's layout under the root.

    Args:
        download: fetch the files if they are not there.
        kwargs: of `ImageData`.

    Attributes:
        home: folder of the data set's files, below the root.
        files: their names.
    """

    home: str
    files: tuple[str, ...]

    def __init__(self, download: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.download = download
        _ = self.num_classes  # known without the files: refuse unknown classes now

    @abstractmethod
    def reader(self) -> Any:
        """The torchvision class; a method, so that torchvision is imported when files are read and not before."""

    def parts(self) -> Sequence[str]:
        return ("train", "test")

    def fetch(self) -> None:
        home, name = self.folder / self.home, type(self).__name__
        lock = self.folder / LOCK
        if self._complete() and not (self.download and lock.exists()):
            return
        mend = "name the folder that holds it by --data.init_args.root or LIGHTNING_GEN_DATA"
        if not self.download:
            raise UserError(f"there is no {name} in {home.absolute()}: {mend}, or leave download on.")
        try:
            with alone(lock):
                if not self._complete():  # else another process downloaded it meanwhile
                    print(f"downloading {name} to {home.absolute()}")
                    with _quiet_and_impatient():
                        self.reader()(str(self.folder), download=True)
                with contextlib.suppress(OSError):
                    lock.unlink()  # whoever waits for it, or makes a new one, finds the files complete
        except (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error) as error:
            raise UserError(
                f"there is no {name} in {home.absolute()}, and it cannot be downloaded ({_line(error)}): {mend}."
            ) from error

    def file(self, name: str) -> Path | None:
        """Where one of the files is; None where it is not."""
        path = self.folder / self.home / name
        return path if path.is_file() else None

    def _complete(self) -> bool:
        return all(self.file(name) for name in self.files)

    def identity(self) -> Any:
        stats = {name: self.file(name).stat() for name in self.files}
        return [self.home, *([file, stat.st_size, stat.st_mtime_ns] for file, stat in stats.items())]

    def arrays(self, part: str) -> tuple[Any, Any]:
        """(images uint8 [N, H, W] or [N, H, W, C], labels [N]) of a part."""
        with _quiet_and_impatient():
            data = self.reader()(str(self.folder), train=part == "train", download=self.download)
        return data.data, data.targets

    def read(self, part: str) -> Images:
        name, home = type(self).__name__, (self.folder / self.home).absolute()
        try:
            x, y = self.arrays(part)
        except (OSError, RuntimeError, ValueError, TypeError, LookupError, EOFError, AssertionError, zlib.error,
                struct.error) as error:  # fmt: skip
            raise UserError(
                f"the files of {name} in {home} are damaged or incomplete ({_line(error)}): "
                "delete that folder, so that they are downloaded again."
            ) from error
        x, y = torch.as_tensor(x), torch.as_tensor(y).long()
        if x.ndim > 2:
            x = x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()
        fault = None
        if len(x) != len(y):
            fault = f"{len(x)} images and {len(y)} labels"
        elif tuple(x.shape[1:]) != self.native_shape:
            fault = f"images of shape {tuple(x.shape[1:])}, must be {self.native_shape}"
        elif len(y) and not 0 <= int(y.min()) <= int(y.max()) < self.native_classes:
            fault = f"labels from {int(y.min())} to {int(y.max())}, must be from 0 to {self.native_classes - 1}"
        if fault is not None:
            raise UserError(f"the files in {home} are not those of {name}: its part {part} has {fault}.")
        return x, y


def _line(error: Exception) -> str:
    """What an error says, in a line; its kind, where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _quiet_and_impatient() -> Iterator[None]:
    """torchvision prints each mirror it tries, and waits for ever for one that does not answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)
