"""Data sets, one file each, over one base. Names are resolved on first use, so importing the package costs nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datamodules.base import DataModule
    from datamodules.digits import Digits
    from datamodules.loaders import Batch, Examples
    from datamodules.toy import Checkerboard, EightGaussians, TwoMoons

_HOME = {
    "Batch": "loaders",
    "DataModule": "base",
    "Examples": "loaders",
    "Digits": "digits",
    "Checkerboard": "toy",
    "EightGaussians": "toy",
    "TwoMoons": "toy",
}

__all__ = ["Batch", "Checkerboard", "DataModule", "Digits", "EightGaussians", "Examples", "TwoMoons"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
