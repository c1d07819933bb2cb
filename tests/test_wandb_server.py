"""W&B's server: who has a key for it, and where the way to it begins."""

import socket
import threading
from argparse import Namespace

import pytest

from lightning_gen import wandb_server
from lightning_gen.wandb_server import has_key, reachable

pytestmark = pytest.mark.usefixtures("no_wandb")


@pytest.fixture
def server(monkeypatch):
    """A port that is listened to, named as W&B's server."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
        yield listening


def test_the_key_is_that_of_the_server(tmp_path, monkeypatch):
    assert not has_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    (tmp_path / "netrc").chmod(0o600)
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080/")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert has_key()


def test_a_server_is_known_by_its_answer(server):
    assert reachable()
    server.close()
    assert not reachable()


@pytest.fixture
def knocked(monkeypatch):
    """The addresses that are knocked at; all of them answer."""
    addresses = []

    def answer(address, timeout):
        addresses.append(address)
        return Namespace(close=lambda: None)

    monkeypatch.setattr(wandb_server.socket, "create_connection", answer)
    return addresses


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, ("api.wandb.ai", 443)),
        ({"HTTPS_PROXY": "http://proxy.example.org:3128"}, ("proxy.example.org", 3128)),
        ({"https_proxy": "proxy.example.org:3128"}, ("proxy.example.org", 3128)),
        ({"HTTPS_PROXY": "http://user:word@proxy.example.org"}, ("proxy.example.org", 80)),
        ({"HTTPS_PROXY": "https://proxy.example.org/"}, ("proxy.example.org", 443)),
        ({"HTTP_PROXY": "http://proxy.example.org:3128"}, ("api.wandb.ai", 443)),  # of the other scheme
        ({"HTTPS_PROXY": "http://proxy.example.org:3128", "NO_PROXY": "localhost,.wandb.ai"}, ("api.wandb.ai", 443)),
        ({"HTTPS_PROXY": "http://proxy.example.org:3128", "NO_PROXY": "example.org"}, ("proxy.example.org", 3128)),
        ({"http_proxy": "http://proxy.example.org:3128", "WANDB_BASE_URL": "http://own:8080"}, ("proxy.example.org", 3128)),
    ],
)  # fmt: skip
def test_the_way_to_the_server_begins_at_the_proxy(monkeypatch, knocked, environment, address):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert reachable() and knocked == [address]


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_address_that_is_none_does_not_answer(monkeypatch, knocked):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:port")
    assert not reachable(60) and not knocked


def test_a_name_that_is_looked_up_for_long_does_not_hold_a_run(monkeypatch):
    found = threading.Event()

    def look(*args):  # as a resolver does that finds no network
        found.wait(60)
        raise OSError

    monkeypatch.setattr(wandb_server.socket, "create_connection", look)
    assert not reachable(0.01)  # it is back, and the name still looked for
    found.set()
