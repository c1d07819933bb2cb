"""Processes that one command starts: they begin in milliseconds, end together, and fail with one error."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import connection, forkserver
from typing import Any

from lightning_gen.errors import UserError


def context(preload: str) -> Any:
    """How processes start: forked from a server that has imported the module `preload`, where the system has one.

    The module must compute nothing: a process that has used threads cannot fork. One server serves a process all its
    life; what it has imported is what the first caller named. Ctrl-C is left to the command: neither the server, which
    would show a traceback of its imports, nor what it forks hears of it.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    server: Any = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([preload])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what the server inherits
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return server


def die_with_parent() -> None:
    """From now on this process ends when the one that started it does, be it by SIGKILL."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()


class Failure:
    """An exception with what caused it, as another process can read it; its traceback becomes a note."""

    def __init__(self, error: BaseException) -> None:
        if not hasattr(error, "__notes__"):  # one that came from a further process has its traceback already
            error.add_note("In another process: " + "".join(traceback.format_exception(error)))
        from lightning_gen.refusals import links  # looked up only once something has failed

        self.chain = [_picklable(link) for link in links(error)]

    def error(self) -> BaseException:
        """The exception, to be raised here."""
        for error, cause in zip(self.chain, self.chain[1:]):
            error.__cause__ = cause
        return self.chain[0]


def _picklable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def run_together(
    function: Callable[..., Any],
    kwargs: Mapping[str, Any],
    environments: Sequence[Mapping[str, str]],
    preload: str,
) -> Any:
    """What `function(**kwargs)` returns in the first of several processes, one for each environment.

    The function is importable and its arguments can be pickled. An environment adds to this process's own. An exception
    in any process, or its death, ends all of them and is raised here; one that leaves by SystemExit says nothing.

    Raises:
        UserError: a process was killed.
    """
    starter = context(preload)
    processes: dict[Any, tuple[int, Any]] = {}
    result = None
    try:
        for rank, environment in enumerate(environments):
            reader, writer = starter.Pipe(duplex=False)
            given = (writer, function, dict(kwargs), {**os.environ, **environment})
            process = starter.Process(target=_child, args=given, name=f"rank {rank}")
            process.start()
            writer.close()  # the child's is the only one left: its end is the end of the pipe
            processes[reader] = rank, process
        waiting = set(processes)
        while waiting:
            failures = []
            for reader in connection.wait(list(waiting)):
                waiting.remove(reader)
                rank, process = processes[reader]
                try:
                    outcome = reader.recv()
                except EOFError:  # before failures that it may have caused in the others
                    process.join()
                    raise UserError(_epitaph(rank, process.exitcode)) from None
                if isinstance(outcome, Failure):
                    failures.append(outcome)
                elif rank == 0:
                    result = outcome
            if failures:
                raise failures[0].error()
    finally:  # an interrupt leaves no orphan behind
        for _, process in processes.values():
            process.terminate()
        for _, process in processes.values():
            process.join(10)
            process.kill()
    return result


def _epitaph(rank: int, status: int) -> str:
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    hint = ": out of memory? Lower --batch_size" if status == -signal.SIGKILL else ""
    return f"process {rank} of this command ended {how} before it was done{hint}"


def _child(writer: Any, function: Callable[..., Any], kwargs: dict[str, Any], environment: dict[str, str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent, interrupted, ends all
    die_with_parent()
    os.environ.clear()  # the server's own is of the time when it began
    os.environ.update(environment)
    try:
        outcome = function(**kwargs)
    except SystemExit:
        outcome = None
    except BaseException as error:
        outcome = Failure(error)
    writer.send(outcome)
