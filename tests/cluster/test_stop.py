"""A signal is remembered and nothing else, until its action is given back."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from lightning_gen.cluster import stop
from lightning_gen.errors import UserError


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_it_is_remembered_until_the_end_of_the_scope():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    with stop.listening():
        assert stop.told() is None
        send(signal.SIGUSR1)
        assert stop.told() is signal.SIGUSR1
    assert stop.told() is None
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before


@pytest.mark.parametrize("sent", [(signal.SIGUSR1, signal.SIGTERM), (signal.SIGTERM, signal.SIGUSR1)])
def test_a_termination_counts_before_an_announcement(sent):
    """Slurm may send both; the script must know that it was the one it may not undo."""
    with stop.listening():
        for number in sent:
            send(number)
        assert stop.told() is signal.SIGTERM


@pytest.mark.parametrize("name", ["USR2", "SIGUSR2"])
def test_the_announcing_signal_is_a_setting(monkeypatch, name):
    monkeypatch.setenv(stop.VARIABLE, name)
    with stop.listening():
        send(signal.SIGUSR2)
        assert stop.told() is signal.SIGUSR2
    monkeypatch.setenv(stop.VARIABLE, "NONE")
    with pytest.raises(UserError, match=r"LIGHTNING_GEN_SIGNAL is 'NONE', which is no signal"):
        stop.announcing()


def test_scopes_may_be_nested():
    before = signal.getsignal(signal.SIGTERM)
    with stop.listening():
        stop.listen()
        send(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_nothing_is_done():
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=stop.listen)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before


def test_one_that_had_come_acts_as_soon_as_it_may():
    """Between training and measuring, say: the process ends by it."""
    program = "import os, signal; from lightning_gen.cluster import stop; stop.listen(); "
    program += "os.kill(os.getpid(), signal.SIGUSR1); print('alive', flush=True); stop.restore(); print('still')"
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert made.returncode == -signal.SIGUSR1 and made.stdout == "alive\n"


def test_listening_costs_no_heavy_import():
    program = (
        "import sys; import lightning_gen.cluster.stop; print(sorted({'torch', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"
