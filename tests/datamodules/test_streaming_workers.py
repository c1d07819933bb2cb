"""Processes that fetch batches: in order, deaf to signals, gone with the one that started them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from itertools import islice
from pathlib import Path

import pytest
import torch

from datamodules.loaders import Batch
from datamodules.streaming_workers import IGNORED, fetched
from lightning_gen.errors import UserError

ROOT = Path(__file__).parents[2]


class Squares:
    """Examples that are the squares of their indices; some are refused, some never come, some kill who reads them."""

    def take(self, index, micro_step=None):
        if (index < 0).any():
            raise UserError("there is no such example.")
        if (index == 500).any():
            threading.Event().wait()  # a file system that does not answer
        if (index > 1000).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return Batch(index**2, None, index, micro_step)


def requests(*starts):
    return ((torch.arange(k, k + 3), number) for number, k in enumerate(starts))


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_batches_come_in_the_order_of_their_requests(guarded, num_workers):
    state = torch.get_rng_state()
    starts = [7, 3, 90, 3, 12, 0, 55]
    found = list(fetched(Squares(), requests(*starts), num_workers, prefetch=2))
    assert [(b.index.tolist(), b.micro_step) for b in found] == [([k, k + 1, k + 2], n) for n, k in enumerate(starts)]
    assert all(torch.equal(b.x, b.index**2) and b.y is None for b in found)
    assert torch.equal(torch.get_rng_state(), state)
    assert not multiprocessing.active_children()


def test_an_endless_stream_ends_with_its_reader(guarded):
    stream = fetched(Squares(), requests(*range(10_000)), 2, prefetch=2)
    assert [b.micro_step for b in islice(stream, 5)] == [0, 1, 2, 3, 4]
    assert len(multiprocessing.active_children()) == 2
    stream.close()
    assert not multiprocessing.active_children()


def test_signals_to_every_process_of_a_step_leave_the_workers_at_work(guarded):
    stream = fetched(Squares(), requests(*range(100)), 2, prefetch=2)
    next(stream)
    next(stream)
    for worker in multiprocessing.active_children():
        for number in IGNORED:
            os.kill(worker.pid, number)
    assert {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT} <= set(IGNORED)
    assert [b.micro_step for b in stream] == list(range(2, 100))


def test_what_a_worker_raises_is_raised_here_in_its_own_words(guarded):
    stream = fetched(Squares(), requests(1, -1, 2), 2, prefetch=2)
    assert next(stream).micro_step == 0
    with pytest.raises(UserError) as caught:
        next(stream)
    assert str(caught.value) == "there is no such example."
    assert not multiprocessing.active_children()


def test_a_worker_that_is_killed_is_one_line(guarded):
    with pytest.raises(UserError, match=r"was killed: out of memory.*--data.init_args.num_workers\.$"):
        list(fetched(Squares(), requests(1, 2000, 2), 1, prefetch=2))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
def test_workers_die_with_the_process_that_started_them(guarded, number):
    reader, writer = os.pipe()  # every process that is forked holds the other end
    if (pid := os.fork()) == 0:
        stream = fetched(Squares(), requests(1, 500, 500, 2), 2, prefetch=2)
        next(stream)
        os.kill(os.getpid(), number)
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -number
    assert os.read(reader, 1) == b""  # comes with the death of the last
    os.close(reader)


def test_a_program_that_ends_with_its_stream_open_ends(guarded):
    code = (
        "import torch; from datamodules.loaders import Batch; from datamodules.streaming_workers import fetched\n"
        "class Same:\n"
        "    def take(self, index, micro_step=None): return Batch(index, None, index, micro_step)\n"
        "stream = fetched(Same(), ((torch.arange(3), k) for k in range(10**9)), 2, 2)\n"
        "import builtins; next(stream); builtins.kept = stream"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
