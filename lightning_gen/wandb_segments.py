"""What W&B's client keeps of a run on the disk: one segment for each start, in the order of a log that is only added to.

The file is LevelDB's log (blocks of 32 KiB; records of crc, length, kind and a protocol buffer) after a header of seven
bytes. A process that was killed leaves the last record cut off, or nothing but the header.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

_HEADER, _BLOCK = 7, 32768
_FRAME = struct.Struct("<IHB")
_FULL, _FIRST, _LAST = 1, 2, 4
_FOLDER = re.compile(r"(offline-)?run-(\d{8}_\d{6})-(.+)")

Cell = tuple[int, str]
"""(optimizer step, name of a metric): what a run tells W&B once."""


@dataclass(frozen=True)
class Segment:
    """One start of a W&B run: `wandb/[offline-]run-TIME-ID/run-ID.wandb`."""

    log: Path

    @property
    def folder(self) -> Path:
        return self.log.parent

    @cached_property
    def _name(self) -> tuple[str | None, str, str]:
        match = _FOLDER.fullmatch(self.folder.name)
        return (match[1], match[2], match[3]) if match else (None, "", "")

    @property
    def offline(self) -> bool:
        return self._name[0] is not None

    @property
    def started(self) -> str:
        """Local time as YYYYMMDD_HHMMSS."""
        return self._name[1]

    @property
    def identity(self) -> str:
        """The id of the W&B run."""
        return self._name[2]

    @property
    def synced(self) -> bool:
        return self.log.with_name(f"{self.log.name}.synced").exists()

    def records(self) -> Iterator[Any]:
        """W&B's records as far as they are whole."""
        from google.protobuf.message import DecodeError
        from wandb.proto.wandb_internal_pb2 import Record

        with open(self.log, "rb") as file:
            for content in _contents(file):
                try:
                    yield Record.FromString(content)
                except DecodeError:  # what follows a damaged place cannot be trusted
                    return

    def run(self) -> Any | None:
        """W&B's record of the run that this is a start of; None where its process was killed before it reached the disk."""
        return next((record.run for record in self.records() if record.WhichOneof("record_type") == "run"), None)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the run's history; `_step` is W&B's own count of them, on the server for a run that was online."""
        for record in self.records():
            if record.WhichOneof("record_type") == "history":
                row: dict[str, Any] = {}
                for item in record.history.item:
                    name, *within = [item.key] if item.key else item.nested_key
                    value = json.loads(item.value_json)
                    row[name] = {**row.get(name, {}), ".".join(within): value} if within else value
                yield row

    def is_empty(self) -> bool:
        """Whether it does not even say which run it is of."""
        return self.run() is None

    def mark_synced(self) -> None:
        self.log.with_name(f"{self.log.name}.synced").touch()


def _contents(file: IO[bytes]) -> Iterator[bytes]:
    if file.read(_HEADER)[:4] != b":W&B":
        return
    at, parts = _HEADER, b""
    while True:
        if _BLOCK - at % _BLOCK < _FRAME.size:  # the rest of a block that holds no frame
            at += len(file.read(_BLOCK - at % _BLOCK))
        frame = file.read(_FRAME.size)
        if len(frame) < _FRAME.size:
            return
        _, length, kind = _FRAME.unpack(frame)
        content = file.read(length)
        if not kind or len(content) < length:
            return
        parts = (b"" if kind in (_FULL, _FIRST) else parts) + content
        at += _FRAME.size + length
        if kind in (_FULL, _LAST):
            yield parts


def segments(run: Path) -> list[Segment]:
    """The segments in a run directory, in order of start."""
    found = (Segment(log) for log in run.glob("wandb/*run-*/run-*.wandb"))
    return sorted((s for s in found if s.identity), key=lambda s: (s.started, s.log))


def cells(run: Path, identity: str, server_rows: int | None = None) -> set[Cell]:
    """What W&B has been told of a run in all its starts before, and will get or has got.

    Args:
        identity: the id of the W&B run.
        server_rows: how many rows the server has, or None where it is not asked. What an online segment counted from there
            on was lost on the way.
    """
    offline: set[Cell] = set()
    online: dict[int, set[Cell]] = {}
    for segment in segments(run):
        if segment.identity != identity:
            continue
        begins = True
        for row in segment.rows():
            told = {(int(row["step"]), name) for name in row} if isinstance(row.get("step"), (int, float)) else set()
            if segment.offline:
                offline |= told
                continue
            if begins:  # at what the server had by then
                online = {number: known for number, known in online.items() if number < row["_step"]}
                begins = False
            online[row["_step"]] = told
    arrived = (known for number, known in online.items() if server_rows is None or number < server_rows)
    return offline.union(*arrived)


def group(run: Path, identity: str) -> str | None:
    """The group that a W&B run was begun in, None of a run that is new."""
    for segment in segments(run):
        begun = segment.run() if segment.identity == identity else None
        if begun is not None:
            return begun.run_group or None
    return None
