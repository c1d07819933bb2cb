"""Being told to stop: handlers that remember the signal and do nothing else.

They stand before anything heavy is imported, since a signal may come at any time, and whoever can stop in good order
(`callbacks.preemption`) asks for it where that is. A handler that saves would run in the middle of a step, on each rank in
another one, and in every worker that was forked.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning_gen.errors import UserError

VARIABLE = "LIGHTNING_GEN_SIGNAL"
"""Names the signal that announces the end of a job's time, USR1 by default: what `sbatch --signal` sends."""

_told: signal.Signals | None = None
_before: dict[signal.Signals, Any] = {}


def announcing() -> signal.Signals:
    """The signal that says the job's time is up soon.

    Raises:
        UserError: there is no such signal.
    """
    name = os.environ.get(VARIABLE, "USR1")
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except KeyError as error:
        raise UserError(f"{VARIABLE} is {name!r}, which is no signal: USR1, say, or USR2") from error


def told() -> signal.Signals | None:
    """The signal by which this process was told to stop; None as long as it was not. SIGTERM counts before the other."""
    return _told


def _remember(number: int, frame: FrameType | None) -> None:
    global _told
    if _told is not signal.SIGTERM:
        _told = signal.Signals(number)


def listen() -> None:
    """From now on SIGTERM and the announcing signal are remembered. Nothing outside the main thread, which alone may ask."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, announcing()):
        previous = signal.signal(number, _remember)
        _before.setdefault(number, previous)


def restore() -> None:
    """Gives the signals the actions they had, and sends one that had come once more."""
    global _told
    came, _told = _told, None
    while _before:
        number, action = _before.popitem()
        signal.signal(number, signal.SIG_DFL if action is None else action)  # None: one that is not Python's
    if came is not None:
        os.kill(os.getpid(), came)


@contextmanager
def listening() -> Iterator[None]:
    """Listens within; what was heard there is forgotten at its end."""
    global _told
    listen()
    try:
        yield
    finally:
        _told = None
        restore()
