"""Processes that fetch batches: in order, deaf to signals, gone with the one that started them."""

import atexit
import multiprocessing
import multiprocessing.util
import os
import signal
import threading
from itertools import islice

import pytest
import torch

from datamodules.loaders import Batch
from datamodules.streaming_workers import IGNORED, beside, fetched
from lightning_gen.errors import UserError


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU")
def test_batches_for_a_gpu_lie_in_pinned_memory(guarded):
    for batch in fetched(Squares(), requests(1, 2), 1, prefetch=2):
        assert isinstance(batch, Batch) and batch.x.is_pinned() and batch.index.is_pinned()


def test_an_endless_stream_ends_with_its_reader(guarded):
    stream = fetched(Squares(), requests(*range(10_000)), 2, prefetch=2)
    assert [b.micro_step for b in islice(stream, 5)] == [0, 1, 2, 3, 4]
    assert len(multiprocessing.active_children()) == 2
    stream.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("announced", ["USR1", "HUP"])
def test_signals_to_every_process_of_a_step_leave_the_workers_at_work(guarded, monkeypatch, announced):
    monkeypatch.setenv("LIGHTNING_GEN_SIGNAL", announced)
    stream = fetched(Squares(), requests(*range(100)), 2, prefetch=2)
    next(stream)
    next(stream)
    for worker in multiprocessing.active_children():
        for number in (*IGNORED, signal.Signals[f"SIG{announced}"]):
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda n: n.name)
def test_work_beside_dies_of_the_signals_that_this_process_remembers(guarded, number):
    before = signal.signal(number, lambda *_: None)
    reader, writer = os.pipe()
    try:
        beside(_says_so_and_waits, writer)
        assert os.read(reader, 1) == b"x"
        (process,) = multiprocessing.active_children()
        os.kill(process.pid, number)
        process.join()
        assert process.exitcode == -number
    finally:
        signal.signal(number, before)
        os.close(reader), os.close(writer)


def _says_so_and_waits(writer):
    os.write(writer, b"x")
    threading.Event().wait()


def test_work_beside_that_fails_is_silent(guarded, capfd):
    beside(Squares().take, torch.tensor([-1]))
    for process in multiprocessing.active_children():
        process.join()
        assert process.exitcode == 0
    assert capfd.readouterr() == ("", "")


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


def test_a_program_that_ends_with_its_stream_open_ends(guarded, capfd):
    if (pid := os.fork()) == 0:  # a program that has imported everything: its end is what is looked at
        atexit._clear()  # what the tests' own process would do there
        atexit.register(multiprocessing.util._exit_function)
        stream = fetched(Squares(), requests(*range(900)), 1, prefetch=2)
        next(stream)
        atexit._run_exitfuncs()  # the last handler first, as the interpreter does
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert capfd.readouterr() == ("", "")
