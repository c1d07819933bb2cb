"""Data sets, one file each, over one base. Names are resolved on first use, so importing the package costs nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datamodules.base import DataModule
    from datamodules.cifar10 import CIFAR10
    from datamodules.digits import BinaryDigits, Digits
    from datamodules.image_folder import ImageFolder
    from datamodules.images import ImageData
    from datamodules.loaders import Batch, Examples, Split
    from datamodules.mnist import MNIST, FashionMNIST
    from datamodules.streaming import StreamedImages
    from datamodules.text import Characters, LowerCase, Text
    from datamodules.toy import Checkerboard, EightGaussians, TwoMoons

_HOME = {
    "Batch": "loaders",
    "DataModule": "base",
    "Examples": "loaders",
    "Split": "loaders",
    "CIFAR10": "cifar10",
    "BinaryDigits": "digits",
    "Digits": "digits",
    "ImageFolder": "image_folder",
    "ImageData": "images",
    "MNIST": "mnist",
    "FashionMNIST": "mnist",
    "StreamedImages": "streaming",
    "Characters": "text",
    "LowerCase": "text",
    "Text": "text",
    "Checkerboard": "toy",
    "EightGaussians": "toy",
    "TwoMoons": "toy",
}

__all__ = [
    "CIFAR10",
    "MNIST",
    "Batch",
    "BinaryDigits",
    "Characters",
    "Checkerboard",
    "DataModule",
    "Digits",
    "EightGaussians",
    "Examples",
    "FashionMNIST",
    "ImageData",
    "ImageFolder",
    "LowerCase",
    "Split",
    "StreamedImages",
    "Text",
    "TwoMoons",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
