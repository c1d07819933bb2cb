"""W&B's server: whether there is a key for it, and whether it answers."""

from __future__ import annotations

import netrc
import os
import socket
import threading
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass


def has_key() -> bool:
    """Whether W&B could log in without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(server()) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def reachable(timeout: float = 2.0) -> bool:
    """Whether W&B's server, or the proxy on the way to it, answers within `timeout` seconds; to look its name up counts."""
    answered = threading.Event()

    def knock() -> None:
        try:
            socket.create_connection(_first_stop(), timeout).close()
            answered.set()
        except (OSError, ValueError):  # nobody there, or no address
            pass

    # In a thread: the look-up of a name has no timeout of its own, and takes many seconds where there is no network.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(timeout)
    return answered.is_set()


def _url() -> SplitResult:
    url = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    return urlsplit(url if "://" in url else f"https://{url}")


def _address(url: SplitResult) -> tuple[str, int]:
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def server() -> str:
    return _url().hostname or ""


def _first_stop() -> tuple[str, int]:
    """(host, port) that the way to W&B's server begins with: the proxy of its scheme, where one is set and it not exempt."""
    url = _url()
    address = _address(url)
    proxy = getproxies().get(url.scheme)
    if not proxy or proxy_bypass("{}:{}".format(*address)):
        return address
    return _address(urlsplit(proxy if "://" in proxy else f"http://{proxy}"))
