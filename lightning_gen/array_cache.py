"""Arrays made once and mapped into memory by every process that reads them: the ranks of a node share the pages.

They lie in $LIGHTNING_GEN_CACHE, else $XDG_CACHE_HOME/lightning_gen, else ~/.cache/lightning_gen, a folder for each set
of arrays, and may be deleted at any time. Each process checks the CRC of what it opens, about 1 GB/s: what a disk has
damaged is made again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FORMAT = 1
"""Of the files; part of every key."""

MANIFEST = "arrays.json"

Arrays = dict[str, np.ndarray]


def cache_folder() -> Path:
    """Where the arrays lie."""
    if given := os.environ.get("LIGHTNING_GEN_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lightning_gen"


class Column(NamedTuple):
    """An array to be made. Its rows come in chunks that are written as they come, so it is never in memory as a whole."""

    name: str
    shape: tuple[int, ...]
    dtype: type[np.generic]
    chunks: Iterable[np.ndarray]

    def checked(self) -> Iterator[np.ndarray]:
        """The chunks, contiguous.

        Raises:
            ValueError: they are not the rows that shape and type announce.
        """
        rows = 0
        for chunk in self.chunks:
            if chunk.dtype != self.dtype or chunk.shape[1:] != self.shape[1:]:
                told = f"{np.dtype(self.dtype)} {self.shape[1:]}"
                raise ValueError(f"{self.name}: rows are {chunk.dtype} {chunk.shape[1:]}, must be {told}")
            rows += len(chunk)
            yield np.ascontiguousarray(chunk)
        if rows != self.shape[0]:
            raise ValueError(f"{self.name}: {rows} rows, must be {self.shape[0]}")


class _CannotWrite(Exception):
    """The cache, not the maker, failed; the message is the reason."""


def cached(name: str, key: Any, make: Callable[[], Iterable[Column]]) -> Arrays:
    """The arrays that `make` makes, from the cache if they were made before.

    They are mapped copy-on-write: writing to one neither fails nor reaches the file. An incomplete set is made again.
    Where the folder cannot be written they are made in memory (anew, if the disk filled up half way), with a warning.

    Args:
        name: of the data, for people who look into the folder.
        key: primitives on which the arrays depend, all of them.
    """
    entry = _entry(name, key)
    found = _open(entry)
    if found is None:
        try:
            _store(entry, make())
            found = _open(entry)
        except _CannotWrite as error:
            message = f"cannot write {entry.parent} ({error}): every process keeps its own copy of the data in memory"
            warnings.warn(f"{message}; LIGHTNING_GEN_CACHE names another folder", stacklevel=2)
    return in_memory(make()) if found is None else found


def look_up(name: str, key: Any) -> Arrays | None:
    """What `cached` would find, mapped; None where it would have to make the arrays."""
    return _open(_entry(name, key))


def in_memory(columns: Iterable[Column]) -> Arrays:
    """The arrays, in memory."""
    arrays: Arrays = {}
    for column in columns:
        array, first = np.empty(column.shape, column.dtype), 0
        for chunk in column.checked():
            array[first : first + len(chunk)] = chunk
            first += len(chunk)
        arrays[column.name] = array
    return arrays


def _entry(name: str, key: Any) -> Path:
    digest = hashlib.sha256(json.dumps([FORMAT, key], sort_keys=True).encode()).hexdigest()[:20]
    return cache_folder() / f"{name}-{digest}"


def _open(entry: Path) -> Arrays | None:
    """The arrays of an entry, mapped; None where it is absent, not whole, or not what was written."""
    try:
        checksums = json.loads((entry / MANIFEST).read_text())
        arrays = {name: np.load(entry / f"{name}.npy", mmap_mode="c") for name in checksums}
        changed = [name for name, crc in checksums.items() if checksum(entry / f"{name}.npy") != crc]
    except (OSError, ValueError, EOFError, AttributeError):  # a file shorter than its header says is a ValueError
        return None
    if changed:
        warnings.warn(f"{entry / changed[0]}.npy is damaged: made again", stacklevel=2)
    return None if changed else arrays


def checksum(file: Path) -> int:
    """CRC-32 of a file's bytes."""
    crc = 0
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            crc = zlib.crc32(block, crc)
    return crc


def _store(entry: Path, columns: Iterable[Column]) -> None:
    """Writes the whole entry or nothing. Of two processes that write one entry, either may win: they are equal."""
    partial = entry.with_name(f".{entry.name}.{os.getpid()}-{secrets.token_hex(4)}")
    broken = partial.with_suffix(".broken")
    try:
        with _writing():
            partial.mkdir(parents=True)
        checksums = {}
        for column in columns:  # not `_writing`: what making the data raises is not the cache's fault
            with _writing():
                checksums[column.name] = _write(partial / f"{column.name}.npy", column)
        with _writing():
            (partial / MANIFEST).write_text(json.dumps(checksums))
            if entry.exists() and _open(entry) is None:
                with suppress(FileNotFoundError):  # another process was faster
                    entry.rename(broken)
            try:
                partial.rename(entry)
            except OSError:
                if _open(entry) is None:
                    raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(broken, ignore_errors=True)


def _write(path: Path, column: Column) -> int:
    """An npy file, sequentially: a full disk raises here, where writing to a mapped file would kill the process.

    Returns:
        Its CRC-32, of what was meant to be written.
    """
    header = {"descr": np.dtype(column.dtype).str, "fortran_order": False, "shape": column.shape}
    np.lib.format.write_array_header_1_0(start := io.BytesIO(), header)
    crc = zlib.crc32(start.getvalue())
    with path.open("wb") as file:
        file.write(start.getvalue())
        for chunk in column.checked():
            file.write(chunk.data)
            crc = zlib.crc32(chunk.data, crc)
    return crc


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _CannotWrite(error.strerror or str(error)) from error
