"""Processes of one command end together, whatever ends the first."""

import os
import signal
import sys

import pytest

from lightning_gen.errors import UserError
from lightning_gen.processes import context, run_together

ACTS = """
import os, signal, sys, threading
from lightning_gen.errors import UserError
from lightning_gen.processes import run_together


def act(first=None, second=None, alive=None):
    does = {"0": first, "1": second}[os.environ["RANK"]]
    if alive is not None:
        alive.send(os.environ["RANK"])
    if does == "wait":
        threading.Event().wait()
    if does == "mistake":
        try:
            raise UserError("lower the colour")
        except UserError as error:
            raise ValueError("deep in a parser") from error
    if does == "bug":
        raise KeyError("colour")
    if does == "local":
        class Odd(Exception):
            pass
        raise Odd("cannot be pickled")
    if does == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "leave":
        sys.exit(2)
    return os.environ["RANK"], os.getcwd(), os.environ.get("COLOUR")

def command(*args):
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_together(*args)
"""
PRELOAD = "lightning_gen.evaluation.sample"
RANKS = [{"RANK": "0"}, {"RANK": "1"}]


@pytest.fixture
def act(tmp_path, monkeypatch, guarded):
    (tmp_path / "acts_of_processes.py").write_text(ACTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import acts_of_processes

    yield acts_of_processes.act
    del sys.modules["acts_of_processes"]


def test_the_first_answers_and_all_are_where_the_command_is(act, monkeypatch):
    run_together(act, {}, RANKS, PRELOAD)  # the server stands, and yet what is set from now on arrives
    monkeypatch.setenv("COLOUR", "blue")
    assert run_together(act, {}, RANKS, PRELOAD) == ("0", os.getcwd(), "blue")
    assert run_together(act, {"second": "leave"}, RANKS, PRELOAD)[0] == "0"


def test_an_error_in_one_ends_the_others_and_is_raised_as_it_was(act):
    with pytest.raises(ValueError, match="deep in a parser") as caught:
        run_together(act, {"first": "wait", "second": "mistake"}, RANKS, PRELOAD)
    assert isinstance(caught.value.__cause__, UserError) and str(caught.value.__cause__) == "lower the colour"
    assert "acts_of_processes.py" in caught.value.__notes__[0]  # where it happened, for --debug
    with pytest.raises(KeyError, match="colour"):
        run_together(act, {"first": "bug", "second": "wait"}, RANKS, PRELOAD)
    with pytest.raises(RuntimeError, match="Odd: cannot be pickled"):
        run_together(act, {"first": "local", "second": "wait"}, RANKS, PRELOAD)


def test_a_death_ends_the_others_and_says_how(act):
    with pytest.raises(UserError, match="process 1 .* by SIGKILL .* --batch_size"):
        run_together(act, {"first": "wait", "second": "killed"}, RANKS, PRELOAD)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_the_command_ends_its_processes(act, how):
    server = context(PRELOAD)
    reader, writer = server.Pipe(duplex=False)
    waiting = {"first": "wait", "second": "wait", "alive": writer}
    from acts_of_processes import command

    process = server.Process(target=command, args=(act, waiting, RANKS, "lightning_gen.processes"))
    process.start()
    writer.close()
    assert {reader.recv(), reader.recv()} == {"0", "1"}
    os.kill(process.pid, how)
    with pytest.raises(EOFError):  # nobody is left to hold the other end
        reader.recv()
    process.join()
    assert process.exitcode != 0
