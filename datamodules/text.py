"""The characters of a text file as sequences of integers."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.base import DataModule
from datamodules.images import data_folder
from datamodules.loaders import Batch, ContentHash, DataOrder, Split
from datamodules.streaming_order import ShardedOrder
from lightning_gen.array_cache import Arrays, Column, cached, in_memory
from lightning_gen.domains import integer_dtype
from lightning_gen.errors import UserError
from lightning_gen.specs import describe

EMBEDDED = Path(__file__).with_name("alice.txt")
"""Chapters I to III of Alice's Adventures in Wonderland (Lewis Carroll, 1865), in the public domain everywhere: 31 KB, the
mouse's tale set as prose."""

HELD_OUT = 0.05
"""The share of a text that is `val`, and that is `test`: its last two stretches (text8's 90, 5 and 5 million)."""

FORMAT = 2
"""Of what is kept of a file; to be raised whenever the same file and alphabet would give other integers."""

CHUNK = 2**22
"""Characters of a file at a time."""

CODE_POINTS = 0x110000
STRETCH, MIXED = 1024, 1024
"""Windows that lie together in the order of training, and how many such stretches are shuffled among each other."""


class Alphabet(ABC):
    """The symbols that a text is written in. A new alphabet says which they are and what becomes of other characters."""

    @abstractmethod
    def symbols_of(self, text: Iterable[np.ndarray]) -> str:
        """Symbol i is what the integer i stands for.

        Args:
            text: its code points, uint32, in chunks; it costs nothing where it is not iterated over.

        Raises:
            UserError: there are fewer than two.
        """

    @abstractmethod
    def encode(self, text: Iterable[np.ndarray], symbols: str) -> np.ndarray:
        """The text as integers {0..len(symbols)-1}: uint8 [n], int64 above 256 symbols.

        Raises:
            UserError: a character that has no symbol.
        """


class LowerCase(Alphabet):
    """Space and a to z, the 27 symbols of text8 (Mahoney 2006): A to Z in lower case, any run of other characters one space.

    Digits are no letters; text8 itself has them spelled out.
    """

    SYMBOLS = " abcdefghijklmnopqrstuvwxyz"

    def symbols_of(self, text: Iterable[np.ndarray]) -> str:
        return self.SYMBOLS

    def encode(self, text: Iterable[np.ndarray], symbols: str) -> np.ndarray:
        table = np.zeros(CODE_POINTS, np.uint8)
        for first in "aA":
            table[ord(first) : ord(first) + 26] = np.arange(1, 27)
        x = np.concatenate([table[chunk] for chunk in text] or [np.zeros(0, np.uint8)])
        kept = x != 0
        kept[:1], kept[1:] = True, kept[1:] | (x[:-1] != 0)  # the first of a run of spaces
        return x[kept]


class Characters(Alphabet):
    """Characters as they are.

    Args:
        symbols: these, in this order, and no others may occur; None for those that occur in the whole file, sorted.

    Raises:
        UserError: fewer than two symbols, or one of them twice.
    """

    def __init__(self, symbols: str | None = None) -> None:
        if symbols is not None and (len(symbols) < 2 or len(set(symbols)) < len(symbols)):
            raise UserError(f"symbols must be two characters or more, each once, not {symbols!r}.")
        self.symbols = symbols

    def symbols_of(self, text: Iterable[np.ndarray]) -> str:
        if self.symbols is not None:
            return self.symbols
        occurs = np.zeros(CODE_POINTS, bool)
        for chunk in text:
            occurs[chunk] = True
        found = "".join(map(chr, np.flatnonzero(occurs)))
        if len(found) < 2:
            raise UserError("the text holds fewer than two different characters: give another path.")
        return found

    def encode(self, text: Iterable[np.ndarray], symbols: str) -> np.ndarray:
        table = np.full(CODE_POINTS, -1, np.int32)
        table[[ord(symbol) for symbol in symbols]] = np.arange(len(symbols))
        dtype = np.uint8 if integer_dtype(len(symbols)) is torch.uint8 else np.int64
        parts = [np.zeros(0, dtype)]
        for chunk in text:
            x = table[chunk]
            if (x < 0).any():
                raise UserError(
                    f"the text holds {chr(chunk[x < 0][0])!r}, which is not in the alphabet: add it to alphabet.symbols, "
                    "or leave those out for all that occur."
                )
            parts.append(x.astype(dtype))
        return np.concatenate(parts)


class Windows(Split):
    """Stretches of one text as examples: example i is [i stride, i stride + length). Only batches are copied.

    Args:
        text: integers [n], at least `length` of them.
    """

    y = None

    def __init__(self, text: Tensor, length: int, stride: int = 1) -> None:
        self.text, self.length, self.stride = text, length, stride
        self.x = text.unfold(0, length, stride)

    def take(self, index: Tensor, micro_step: int | None = None) -> Batch:
        return Batch(self.x.index_select(0, index), None, index, micro_step)

    def apart(self) -> Windows:
        """The windows of the same text that do not overlap."""
        return Windows(self.text, self.length, self.length)

    def order(self, seed: int) -> DataOrder:
        # a permutation of all of a large text's windows would take minutes and eight times the text's memory
        full, rest = divmod(len(self), STRETCH)
        return ShardedOrder([STRETCH] * full + [rest] * (rest > 0), seed, MIXED)

    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = ContentHash()
        digest.column(self.x.dtype, (*self.x.shape, self.stride))  # and not each character `length` times
        digest.rows(self.text.numpy())
        digest.no_column()
        return digest.hexdigest()


class Text(DataModule):
    """Characters of a text as integers {0..levels-1}, uint8 [length] (int64 above 256 symbols).

    The first 90 % of the text are `train`, the next 5 % `val`, the last 5 % `test`, as text8 is cut; no character is in
    two of them. Every stretch of `train` is an example, wherever it begins; those of `val` and `test` do not overlap.

    Args:
        path: of a UTF-8 file (its byte order mark is dropped), looked for here, then below `root`; None for the embedded
            text, see `EMBEDDED`.
        length: characters of an example.
        alphabet: what the integers stand for; `LowerCase` by default.
        root: folder of the data; by default the environment variable LIGHTNING_GEN_DATA, else `data`.
        kwargs: the batch sizes of `DataModule`.

    Raises:
        UserError: no such file, or none of UTF-8; a text too short for `length`; characters that the alphabet lacks.
    """

    def __init__(
        self,
        path: str | None = None,
        length: int = 64,
        alphabet: Alphabet | None = None,
        root: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if length < 1:
            raise UserError(f"length must be at least 1, not {length}.")
        self.path, self.length, self.root = path, length, root
        self.alphabet = LowerCase() if alphabet is None else alphabet

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    @cached_property
    def symbols(self) -> str:
        return self.alphabet.symbols_of(self._chunks())

    @property
    def levels(self) -> int:
        return len(self.symbols)

    @cached_property
    def file(self) -> Path:
        """Where the text is."""
        if self.path is None:
            return EMBEDDED
        here, below = Path(self.path).expanduser(), data_folder(self.root) / self.path
        found = next((file for file in (here, below) if file.is_file()), None)
        if found is None:
            raise UserError(f"path {self.path} is no file, neither here nor in {data_folder(self.root)}.")
        return found

    def _chunks(self) -> Iterator[np.ndarray]:
        """Its code points, uint32."""
        try:
            with self.file.open(encoding="utf-8-sig", newline="") as file:
                while characters := file.read(CHUNK):
                    if "\0" in characters:
                        raise UserError(f"path {self.path} holds NUL characters, as UTF-16 does: convert it to UTF-8.")
                    yield np.frombuffer(characters.encode("utf-32-le"), "<u4")
        except UnicodeDecodeError as error:
            raise UserError(f"path {self.path} is not UTF-8 text ({error.reason}): convert it to UTF-8.") from error
        except OSError as error:
            raise UserError(f"path {self.path} cannot be read ({error.strerror}).") from error

    def prepare_data(self) -> None:
        """Once on a node: fills the cache, which the other ranks then map."""
        self.split("train")

    def load(self) -> dict[str, Windows]:
        text = torch.from_numpy(self._arrays()["text"])
        held_out = int(HELD_OUT * len(text))
        if held_out < self.length:
            raise UserError(
                f"{self.file.name} has {len(text)} characters, {HELD_OUT:.0%} of which make no example of {self.length}: give "
                "a longer text or a smaller length."
            )
        train, val, test = text.split([len(text) - 2 * held_out, held_out, held_out])
        held_out_windows = {
            "val": Windows(val, self.length, self.length),
            "test": Windows(test, self.length, self.length),
        }
        return {"train": Windows(train, self.length), **held_out_windows}

    def _arrays(self) -> Arrays:
        if type(self.alphabet).__module__.partition(".")[0] != __package__:  # a user's may change and nothing tell
            return in_memory(self._columns())
        with self.file.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        return cached("text", [FORMAT, content, describe(self.alphabet)], self._columns)

    def _columns(self) -> Iterator[Column]:
        text = self.alphabet.encode(self._chunks(), self.symbols)
        yield Column("text", text.shape, text.dtype.type, [text])

    def _check(self, name: str, examples: Windows) -> None:
        super()._check(name, examples.apart())  # each character once
