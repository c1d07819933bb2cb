"""A run directory is one process's at a time, whatever becomes of the process."""

import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from lightning_gen import run_lock
from lightning_gen.cluster import stop
from lightning_gen.errors import Interrupted, UserError

HOLD = (
    "import sys; from pathlib import Path; from lightning_gen import run_lock; run_lock.take(Path(sys.argv[1])); "
    "print('taken', flush=True); sys.stdin.read()"
)


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=-1, stdout=-1, text=True)
    assert process.stdout.readline() == "taken\n"
    yield process
    process.kill()
    process.wait()


def test_another_process_is_refused_and_told_by_whom_until_it_ends(other, tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_MOMENT_S", 0.1)
    assert run_lock.is_held(tmp_path)
    with pytest.raises(UserError, match=rf"another process trains in .* \(process {other.pid} on"):
        run_lock.take(tmp_path)
    other.kill()
    other.wait()
    with run_lock.holding(tmp_path):
        pass
    assert not run_lock.is_held(tmp_path)


KINDS = {
    "text": lambda lock: lock.write_text("notes of mine\n" * 9),
    "bytes": lambda lock: lock.write_bytes(bytes(range(256)) * 100),
    "folder": lambda lock: lock.mkdir(),
    "pipe": lambda lock: os.mkfifo(lock),
    "link to nothing": lambda lock: lock.symlink_to(lock.parent / "gone" / "lock"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_stands_in_its_place_is_locked(tmp_path, kind, guarded, monkeypatch):
    KINDS[kind](tmp_path / "lock")
    monkeypatch.setattr(run_lock, "_MOMENT_S", 0.0)
    assert not run_lock.is_held(tmp_path)
    with run_lock.holding(tmp_path):
        monkeypatch.setattr(run_lock, "_ours", {})  # as another process sees it
        with pytest.raises(UserError, match="another process trains in"):
            run_lock.take(tmp_path)
        monkeypatch.undo()
    with run_lock.holding(tmp_path):
        pass


def test_those_who_share_it_are_many_and_one_who_does_not_is_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "_MOMENT_S", 0.0)
    with run_lock.holding(tmp_path, shared=True):
        monkeypatch.setattr(run_lock, "_ours", {})
        with run_lock.holding(tmp_path, shared=True):
            monkeypatch.setattr(run_lock, "_ours", {})
            said = r"others work in .* \(process \d+ on .*\): wait for its end, or give another --out"
            with pytest.raises(UserError, match=said):
                run_lock.take(tmp_path, taken="others work in", option="--out")


def test_a_restarted_job_waits_for_what_is_left_of_itself(other, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(run_lock, "_MOMENT_S", 0.0)
    monkeypatch.setattr(time, "sleep", lambda seconds: other.stdin.close())
    run_lock.take(tmp_path)
    run_lock.release(tmp_path)


def test_one_that_is_told_to_stop_waits_no_longer(other, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(stop, "told", lambda: signal.SIGUSR1)
    with pytest.raises(Interrupted) as left:
        run_lock.take(tmp_path)
    assert left.value.status == 75 and run_lock.is_held(tmp_path)


def test_one_process_may_take_it_twice_and_gives_it_back_at_the_last(tmp_path):
    free = lambda: fcntl.flock(open(tmp_path / "lock"), fcntl.LOCK_EX | fcntl.LOCK_NB)  # noqa: E731, SIM115
    with run_lock.holding(tmp_path):
        with run_lock.holding(tmp_path):
            pass
        with pytest.raises(BlockingIOError):
            free()
    free()
    run_lock.release(tmp_path)  # one too many is none


def test_a_worker_that_was_forked_does_not_keep_it(tmp_path):
    """It has the file open too, as long as it lives."""
    import os

    run_lock.take(tmp_path)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)
        os._exit(0)
    run_lock.release(tmp_path)
    fcntl.flock(open(tmp_path / "lock"), fcntl.LOCK_EX | fcntl.LOCK_NB)  # noqa: SIM115
    os.write(writer, b"x")
    os.waitpid(child, 0)
