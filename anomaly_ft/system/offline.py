"""Restrict the network: data goes only to the named hub and MLflow store, and with `--offline` nowhere.

Other programs on this machine can be reached with `--offline` too.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from anomaly_ft.errors import OfflineError

# libraries that look for news, report their use, or chatter, unless told not to
SILENCE = {
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # of each process of torchrun: advice on a flag of DDP
}
HERE = frozenset({"", "localhost", "localhost.localdomain", "ip6-localhost"})
LOOK_UPS = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"})
CONNECTIONS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_guard = {"up": False, "hooked": False}


def silence_libraries() -> None:
    """Let no library use the network of its own accord; before they are imported. Settings of the user stay."""
    for name, value in SILENCE.items():
        os.environ.setdefault(name, value)


@contextmanager
def no_network() -> Iterator[None]:
    """Raise an OfflineError inside the block for whatever would leave this machine."""
    if not _guard["hooked"]:
        sys.addaudithook(_refuse)  # for good: Python takes no hook back
        _guard["hooked"] = True
    before = {name: os.environ.get(name) for name in ("HF_HUB_OFFLINE",)}
    os.environ["HF_HUB_OFFLINE"] = "1"  # else the hub's client would try, wait, and try again
    _guard["up"] = True
    try:
        yield
    finally:
        _guard["up"] = False
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if not _guard or not _guard["up"]:  # the hook outlives this module's names when Python ends
        return
    if event not in LOOK_UPS | CONNECTIONS:
        return
    address = arguments[0] if event in LOOK_UPS else arguments[1]
    host = address[0] if isinstance(address, tuple) else address
    if event in CONNECTIONS and not isinstance(address, tuple):  # a file on this machine
        return
    name = host.decode(errors="replace") if isinstance(host, bytes) else str(host or "")
    if not _is_here(name):
        raise OfflineError(f"--offline: {name} may not be reached")


def _is_here(host: str) -> bool:
    if host.lower() in HERE:
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
