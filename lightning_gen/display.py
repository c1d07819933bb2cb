"""How samples are shown to people: text as text, all else as pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_gen.pictures import save_film, save_samples
from lightning_gen.texts import save_text, save_text_film


class Display(ABC):
    """A way to show samples in the data's own domain, in files of its own kinds.

    Attributes:
        suffix: of the file that samples are shown in, and by default films.
        film_suffixes: of files that can show films.
    """

    suffix: str
    film_suffixes: tuple[str, ...]

    @abstractmethod
    def save(self, x: Tensor, path: Path) -> None:
        """Writes samples [N, *shape]. Raises UserError for data that cannot be shown so."""

    @abstractmethod
    def save_film(self, x: Tensor, path: Path) -> None:
        """Writes films [N, frames, *shape]. Raises UserError for data that cannot be shown so."""

    @abstractmethod
    def log(self, logger: Any, name: str, path: Path, step: int) -> None:
        """Gives a WandbLogger what `save` has written."""


class Pictures(Display):
    """Images as a sheet, points of the plane as a scatter plot."""

    suffix = ".png"
    film_suffixes = (".png", ".gif")

    def __init__(self, levels: int | None) -> None:
        self.levels = levels

    def save(self, x: Tensor, path: Path) -> None:
        save_samples(x, self.levels, path)

    def save_film(self, x: Tensor, path: Path) -> None:
        save_film(x, self.levels, path)

    def log(self, logger: Any, name: str, path: Path, step: int) -> None:
        logger.log_image(name, [str(path)], step=step)


class Texts(Display):
    """Sequences a line each; symbol i is what level i stands for."""

    suffix = ".txt"
    film_suffixes = (".txt",)

    def __init__(self, symbols: str) -> None:
        self.symbols = symbols

    def save(self, x: Tensor, path: Path) -> None:
        save_text(x, self.symbols, path)

    def save_film(self, x: Tensor, path: Path) -> None:
        save_text_film(x, self.symbols, path)

    def log(self, logger: Any, name: str, path: Path, step: int) -> None:
        rows = [[line] for line in path.read_text(encoding="utf-8").splitlines()]
        logger.log_text(name, columns=["sample"], data=rows, step=step)


def display_of(levels: int | None, symbols: str | None) -> Display:
    """Of data with so many levels, which stand for these symbols, or None for none."""
    return Pictures(levels) if symbols is None else Texts(symbols)
