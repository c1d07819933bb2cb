"""Arrays made once and mapped into memory by every process that reads them: the ranks of a node share the pages.

They lie in $LIGHTNING_GEN_CACHE, else $XDG_CACHE_HOME/lightning_gen, else ~/.cache/lightning_gen, a folder for each set
of arrays, and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

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


def cached(name: str, key: Any, make: Callable[[], Arrays]) -> Arrays:
    """The arrays that `make` makes, from the cache if they were made before.

    They are mapped copy-on-write: writing to one neither fails nor reaches the file. An incomplete set is made again.
    Where the folder cannot be written they stay in memory, with a warning.

    Args:
        name: of the data, for people who look into the folder.
        key: primitives on which the arrays depend, all of them.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, key], sort_keys=True).encode()).hexdigest()[:20]
    entry = cache_folder() / f"{name}-{digest}"
    if (found := _open(entry)) is not None:
        return found
    arrays = make()
    try:
        _store(entry, arrays)
    except OSError as error:
        reason = error.strerror or error
        message = f"cannot write {entry.parent} ({reason}): every process keeps its own copy of the data in memory"
        warnings.warn(f"{message}; LIGHTNING_GEN_CACHE names another folder", stacklevel=2)
        return arrays
    found = _open(entry)
    return arrays if found is None else found


def _open(entry: Path) -> Arrays | None:
    """The arrays of an entry, mapped; None where it is absent or not whole."""
    try:
        names = json.loads((entry / MANIFEST).read_text())
        return {name: np.load(entry / f"{name}.npy", mmap_mode="c") for name in names}
    except (OSError, ValueError, EOFError):  # a file shorter than its header says is a ValueError
        return None


def _store(entry: Path, arrays: Arrays) -> None:
    """Writes the whole entry or nothing. Of two processes that write one entry, either may win: they are equal."""
    partial = entry.with_name(f".{entry.name}.{os.getpid()}-{secrets.token_hex(4)}")
    broken = partial.with_suffix(".broken")
    partial.mkdir(parents=True)
    try:
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array)
        (partial / MANIFEST).write_text(json.dumps(list(arrays)))
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
