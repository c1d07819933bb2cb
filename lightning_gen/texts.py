"""Sequences of symbols as text: each sample a line, and films of how they took shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.run_directory import write_atomically

NOTHING_YET = "▁"
"""What stands for -1, where a film shows nothing yet: a low line that no usual alphabet has, as it has `_`."""

NEW_LINE, UNPRINTABLE = "↵", "�"


def lines(x: Tensor, symbols: str) -> list[str]:
    """Integers [N, length] as N lines, whatever the symbols: line breaks and control characters are shown by signs.

    Args:
        x: in {-1..len(symbols)-1}; -1 is shown as `NOTHING_YET`.
        symbols: symbol i is what i stands for.

    Raises:
        UserError: for what is no sequence of them.
    """
    if x.ndim != 2 or x.is_floating_point():
        raise UserError(f"samples of shape {tuple(x.shape[1:])} and type {x.dtype} are no sequences of symbols")
    values = x.cpu().long().numpy()
    if values.size and not -1 <= values.min() <= values.max() < len(symbols):
        raise UserError(f"samples hold {values.min()}..{values.max()}, and there are {len(symbols)} symbols")
    signs = np.array([*map(_sign, symbols), NOTHING_YET])  # the last is that of -1
    return ["".join(row) for row in signs[values]]


def save_text(x: Tensor, symbols: str, path: Path) -> None:
    """Writes samples [N, length], a line each, as UTF-8."""
    _write([lines(x, symbols)], path)


def save_text_film(x: Tensor, symbols: str, path: Path) -> None:
    """Writes films [N, frames, length]: of each sample its frames one below the other, and a blank line between samples."""
    _write([lines(film, symbols) for film in x], path)


def _write(paragraphs: list[list[str]], path: Path) -> None:
    write_atomically(path, "\n\n".join("\n".join(paragraph) for paragraph in paragraphs) + "\n")


def _sign(symbol: str) -> str:
    if symbol == "\n":
        return NEW_LINE
    if symbol.isprintable():
        return symbol
    return chr(0x2400 + ord(symbol)) if ord(symbol) < 0x20 else UNPRINTABLE  # Unicode's pictures of control characters
