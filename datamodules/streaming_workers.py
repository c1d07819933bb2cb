"""Batches that processes beside the training's read and decode, in the order in which they are asked for."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.loaders import Batch, Request
from lightning_gen.cluster.stop import announcing
from lightning_gen.errors import UserError
from lightning_gen.processes import Failure, die_with_parent

IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that are the training process's affair, with that which announces the end: Slurm sends them to every process."""


START = "fork" if sys.platform == "linux" else None
"""A server that workers are forked from would itself die of the signals that they ignore."""


class Taking(Protocol):
    """What can be read in another process: a split that is pickled, or forked, without what it has open."""

    def take(self, index: Tensor, micro_step: int | None = None) -> Batch: ...


def fetched(split: Taking, requests: Iterable[Request], num_workers: int, prefetch: int) -> Iterator[Batch]:
    """The batches of `requests`, whole ones by turns from each of `num_workers` processes, `prefetch` ahead in each.

    The processes begin with the first batch and end with the last, when the iterator is closed, or with this process,
    be it by SIGKILL. Nothing is drawn from the global random state, here or there. What a worker raises is raised here.
    Where there is a GPU the batches lie in pinned memory, from which Lightning copies them while the device computes.

    Raises:
        UserError: a worker was killed.
    """
    loader = DataLoader(
        _Reading(split),
        batch_size=None,  # a request is a whole batch
        sampler=_Requests(requests),
        num_workers=num_workers,
        prefetch_factor=prefetch,
        collate_fn=_as_it_is,
        worker_init_fn=partial(_begin, {*IGNORED, announcing()}),
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
        multiprocessing_context=START,
    )
    held = [iter(loader)]  # the one reference: the workers end when it goes
    atexit.register(held.clear)  # before multiprocessing ends its children by a signal that these ignore, and waits
    try:
        while True:
            try:
                found = next(held[0])
            except StopIteration:
                return
            except RuntimeError as error:
                raise _explained(error) from error
            if isinstance(found, Failure):
                raise found.error()
            yield found
    finally:
        held.clear()
        atexit.unregister(held.clear)


def beside(function: Callable[..., Any], *args: Any) -> None:
    """Calls a function in a process of its own, which ends with this one or by any signal; nobody hears how it went.

    A thread would not do: a process that is forked while it holds a lock, a worker of validation, say, waits for ever.
    """
    context = multiprocessing.get_context(START)
    context.Process(target=_quietly, args=({*IGNORED, announcing()}, function, *args), daemon=True).start()


def _quietly(signals: Collection[signal.Signals], function: Callable[..., Any], *args: Any) -> None:
    for number in signals:
        signal.signal(number, signal.SIG_DFL)  # else the handler of the process that started it
    die_with_parent()
    with suppress(Exception):  # whoever needs what it was to do fails in its own words
        function(*args)


class _Reading(Dataset):
    def __init__(self, split: Taking) -> None:
        self.split = split

    def __getitem__(self, request: tuple[np.ndarray, int | None]) -> Batch | Failure:
        index, micro_step = request
        try:
            return self.split.take(torch.from_numpy(index), micro_step)
        except Exception as error:
            return Failure(error)


class _Requests:
    """Indices as arrays: a tensor would go to the workers through a shared file each."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self.requests = requests

    def __iter__(self) -> Iterator[tuple[np.ndarray, int | None]]:
        return ((index.numpy(), micro_step) for index, micro_step in self.requests)


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin(ignored: Collection[signal.Signals], worker: int) -> None:
    """Lightning's own `pl_worker_init_function` seeds what a worker draws from; nothing is drawn in these."""
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()


def _explained(error: RuntimeError) -> Exception:
    if "DataLoader worker" not in str(error):
        return error
    return UserError(
        "a process that reads the data was killed: out of memory, or of shared memory (/dev/shm)? Lower "
        "--data.init_args.num_workers."
    )
