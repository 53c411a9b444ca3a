"""Where a server listens, whether it answers, and the key of its model control."""

from __future__ import annotations

import errno
import http.client
import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from rice_lib.common.errors import RiceError

HOST = "127.0.0.1"  # the default address: this machine alone can reach it
LAST_PORT = 65533  # two more follow it
CALL_SECONDS = 5.0  # limit of one question about readiness
KEY_FILE = "control.key"  # in a server's folder while it runs, for its owner alone

KEY_NAME = "rice-control"
RESTRICTED = f"model-repository,shared-memory,trace,logging:{KEY_NAME}="
"""What takes the key, as Triton's options say it: whoever may load a model may run code as the server's user."""


@dataclass(frozen=True)
class Names:
    """The names that clients use, made of the one that they ask for logits."""

    classifier: str

    @property
    def ensemble(self) -> str:
        """The model that takes the bytes of files."""
        return f"{self.classifier}_bytes"

    @property
    def public(self) -> tuple[str, str]:
        """Both models that clients call."""
        return self.classifier, self.ensemble


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens and what it serves; the server is a process or a container."""

    folder: Path
    """The server's own, which has its key."""
    host: str
    port: int
    """HTTP; gRPC is the next port up, Prometheus metrics the one after."""
    model: str
    """The classifier; its ensemble is served too."""

    @property
    def http(self) -> str:
        """`host:port` of the HTTP endpoint."""
        return f"{self.host}:{self.port}"

    @property
    def grpc(self) -> str:
        """`host:port` of the gRPC endpoint."""
        return f"{self.host}:{self.port + 1}"

    @property
    def key(self) -> str | None:
        """What model control takes; None where the server takes no orders from here."""
        with suppress(OSError):
            return (self.folder / KEY_FILE).read_text(encoding="ascii")
        return None

    def is_ready(self) -> bool:
        """Whether the server's models answer that they are ready."""
        return is_ready(self.host, self.port, *Names(self.model).public)

    def wait(self, timeout_s: float, log: str, check: Callable[[], None] = lambda: None) -> float:
        """Wait until the models are ready, and `check` meanwhile; returns seconds.

        Raises `RiceError`, which names the `log`, where they are not ready in time.
        """
        began = time.monotonic()
        while not self.is_ready():
            check()
            if time.monotonic() - began > timeout_s:
                raise RiceError(f"the server was not ready within {timeout_s:g} s (log: {log})", 1)
            time.sleep(0.1)
        return time.monotonic() - began


def make_key(folder: Path) -> str:
    """Make a server's key, and keep it in its folder, where its owner alone can read it."""
    key, file = secrets.token_hex(16), folder / KEY_FILE
    file.unlink(missing_ok=True)
    with open(file, "x", encoding="ascii", opener=lambda path, flags: os.open(path, flags, 0o600)) as stream:
        stream.write(key)
    return key


def parse_address(address: str, named: str) -> tuple[str, int]:
    """Split `host:port` of an HTTP endpoint; raises `RiceError` for another form of what is `named` so."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address:
        raise RiceError(f"{named} {address}: write it as host:port of the server's HTTP endpoint, without a scheme")
    return host, int(port)


def is_ready(host: str, port: int, *models: str) -> bool:
    """Whether models on a server answer that they are ready.

    `/v2/health/ready` says no while any model, also one of a version that is let go, is on its way.
    """
    host = HOST if host == "0.0.0.0" else host
    try:
        for name in models:
            with closing(http.client.HTTPConnection(host, port, timeout=CALL_SECONDS)) as connection:
                connection.request("GET", f"/v2/models/{name}/ready")
                if connection.getresponse().status != 200:
                    return False
    except (OSError, http.client.HTTPException):
        return False
    return True


def free_ports() -> int:
    """Find the first of three free ports in a row."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            first = probe.getsockname()[1]
        with suppress(RiceError):
            return require_free(first)
    raise RiceError(f"no three free ports in a row on {HOST}", 1)


def require_free(port: int, host: str = HOST) -> int:
    """Check that a port and the next two can be had; returns it, or raises `RiceError` with the reason."""
    if not 1 <= port <= LAST_PORT:
        raise RiceError(f"port {port}: choose one between 1 and {LAST_PORT} (three in a row are used)")
    for number, name in enumerate(("HTTP", "gRPC", "metrics"), port):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port whose connections linger is free
            try:
                probe.bind((host, number))
            except OSError as error:
                reasons = {
                    errno.EADDRINUSE: f"port {number} ({name}) is in use on {host}: stop what uses it, or choose "
                    "another --port",
                    errno.EADDRNOTAVAIL: f"--host {host}: not an address of this machine; take {HOST} or 0.0.0.0",
                }
                other = f"port {number} ({name}): {error.strerror}; choose a --port of 1024 or more"
                raise RiceError(reasons.get(error.errno or 0, other), 1) from None
    return port
