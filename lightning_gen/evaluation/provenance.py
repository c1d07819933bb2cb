"""Which code a number comes from."""

from __future__ import annotations

import functools
import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any


@functools.cache
def provenance() -> dict[str, Any]:
    """Versions, and the commit where the package runs from its own checkout ("-dirty" with changes)."""
    from lightning_gen import __version__

    root = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(root)]
    try:
        ask = {"capture_output": True, "text": True, "timeout": 10, "check": True}
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], **ask).stdout.strip()
        commit = subprocess.run([*git, "describe", "--always", "--dirty", "--abbrev=12"], **ask).stdout.strip()
        commit = commit if Path(top).resolve() == root else None
    except (OSError, subprocess.SubprocessError):
        commit = None
    versions = {package: metadata.version(package) for package in ("torch", "lightning")}
    return {"version": __version__, **versions, "python": platform.python_version(), "commit": commit}


@functools.cache
def digest_of_code() -> str:
    """16 hexadecimal digits of the package's source as it lies on the disk: of a checkout with changes too."""
    content = hashlib.sha256()
    for file in sorted(Path(__file__).resolve().parents[1].rglob("*.py")):
        content.update(file.read_bytes())
    return content.hexdigest()[:16]
