"""Files of weights: fetched, told apart by their hash, and read as tensors, never as code."""

from __future__ import annotations

import hashlib
import http.client
import pickle
import socket
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lightning_gen.errors import UserError, WeightsUnavailable

TIMEOUT = 20.0
"""Seconds without an answer after which a download is given up."""


@dataclass(frozen=True)
class Published:
    """Weights as their authors publish them.

    Attributes:
        url: of the file.
        sha256: of its bytes, all 64 digits or as many of the first as are published.
        file: its name in torch.hub's folder of checkpoints.
        torchscript: whether it is a TorchScript archive, which torch-fidelity opens itself, and no state dict.
    """

    url: str
    sha256: str
    file: str
    torchscript: bool = False

    def fetch(self) -> Path:
        """The file in torch.hub's folder, downloaded there on first use: whole, of this hash, or not at all.

        Raises:
            WeightsUnavailable: it is not there and cannot be downloaded.
        """
        path = Path(torch.hub.get_dir()) / "checkpoints" / self.file
        if path.is_file():
            return path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with impatience():
                torch.hub.download_url_to_file(self.url, str(path), self.sha256, progress=sys.stderr.isatty())
        except NO_DOWNLOAD as error:
            raise WeightsUnavailable(
                f"{self.file} cannot be downloaded ({one_line(error)}): put {self.url} into {path.parent} under that name, "
                "or give its place with --extractor.weights PATH"
            ) from error
        return path


NO_DOWNLOAD = (OSError, RuntimeError, EOFError, http.client.HTTPException)
"""What a download raises: no network, no room, a broken connection, another hash."""


@contextmanager
def impatience() -> Iterator[None]:
    """Connections that do not answer are given up; by default they are waited for without end."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def existing(path: str) -> Path:
    """The file a user named.

    Raises:
        UserError: there is none.
    """
    if not Path(path).expanduser().is_file():
        raise UserError(f"there is no file {path}: --extractor.weights takes the path of a file of weights")
    return Path(path).expanduser()


def sha256_of(path: Path) -> str:
    """Of the file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a file: safetensors by that suffix, else torch's own format, of which only tensors are opened.

    Raises:
        UserError: a file that is damaged, or that holds anything but named tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        raise UserError(f"{path} is damaged, or no file of tensors alone, and was not opened") from error
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict: it must map names to tensors")
    return dict(state)


def digest(description: str, tensors: Mapping[str, Tensor] | None = None) -> str:
    """16 hexadecimal digits of a computation's description and of the names, types, shapes and bytes of its tensors."""
    content = hashlib.sha256(description.encode())
    for name, tensor in sorted((tensors or {}).items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return content.hexdigest()[:16]


def one_line(error: BaseException) -> str:
    """The beginning of what an error says; its kind, where it says nothing."""
    return textwrap.shorten(str(error), 200, placeholder=" ...") or type(error).__name__
