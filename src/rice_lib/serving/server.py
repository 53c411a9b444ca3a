"""The life of a `tritonserver` on this machine: started, ready, stopped, and nothing left behind.

A server belongs to a state folder. Everything it makes carries a name derived from that folder (its processes' command
lines, its shared-memory regions), so that a later command can find and clear what a killed server left, and touches
nothing else. The folder holds `state.json` while a server runs, and the log of the latest one.
"""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from rice_lib.common.errors import RiceError
from rice_lib.common.files import locked, read_json, write_json
from rice_lib.serving import launch
from rice_lib.serving.config import Names
from rice_lib.serving.environment import ServingEnvironment

HOST = "127.0.0.1"  # the default address: this machine alone can reach it
LAST_PORT = 65533  # two more follow it
STATE_FILE, LOG_FILE, BACKENDS = "state.json", "tritonserver.log", "backends"
STUB = "triton_python_backend_stub"
"""The process of one instance of a Python-based backend. It outlives a killed server by some seconds."""
SHARED_MEMORY = Path("/dev/shm")

STOP_SECONDS = 30.0  # limit for a server to finish its requests and unload its models (1 to 6 s); then it is killed
CALL_SECONDS = 5.0  # limit of one question about readiness


class Endpoint:
    """Where a server listens and what it serves; the server is a process or a container."""

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

    def is_ready(self) -> bool:
        """Whether the server's models answer that they are ready."""
        return is_ready(self.host, self.port, self.model)

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


@dataclass(frozen=True)
class RunningServer(Endpoint):
    """A server that was started as a process of this machine."""

    pid: int
    host: str
    port: int
    model: str
    repository: str
    log: str
    state_dir: str
    ready_s: float | None = None
    """Seconds from start to ready; None until then."""

    def stop(self) -> float | None:
        """Stop it; see the function `stop`."""
        return stop(Path(self.state_dir))

    def leftovers(self) -> list[str]:
        """List what of this server is still there: processes (which hold its ports), shared memory and files."""
        state_dir = Path(self.state_dir)
        files = [*_regions(state_dir), *_links(state_dir), *(state_dir / name for name in (STATE_FILE, BACKENDS))]
        processes = [f"process {p.pid} ({p.name()})" for p in _processes(state_dir)]
        return processes + [str(file) for file in files if file.exists()]


def start(
    environment: ServingEnvironment,
    repository: Path,
    model: str,
    state_dir: Path,
    *,
    host: str = HOST,
    port: int | None = None,
    ready_timeout_s: float = 60,
    tied: bool = True,
) -> RunningServer:
    """Start a server of a model repository and wait until its models are ready and warm.

    Args:
        model: the classifier; its ensemble is served too.
        state_dir: the server's own folder, made where it is missing.
        host: the IPv4 address to listen on. On a public one model control is disabled.
        port: HTTP port, with the next two for gRPC and metrics; None takes three free ones.
        tied: the server ends when this process does, however that ends.

    Raises:
        RiceError: a server of this folder runs already, a port is in use, there is no such model, or the server died
            or was not ready in time (the line names the log). Nothing is left.
    """
    if not (repository / model / "config.pbtxt").is_file():
        raise RiceError(f"{repository}: holds no model named {model} (no {model}/config.pbtxt)")
    state_dir.mkdir(parents=True, exist_ok=True)
    with locked(state_dir, f"{state_dir}: another start of this server is under way"):
        if processes := [p for p in _processes(state_dir) if not _is_stub(p)]:
            where = known.http if (known := read_state(state_dir)) else "an unknown port"
            running_as = f"a server is already running at {where} (pid {processes[0].pid})"
            raise RiceError(f"{running_as}; stop it first (rice serve down)", 1)
        stop(state_dir, CALL_SECONDS)  # stubs, shared memory and files of a server that was killed
        first = _free_ports() if port is None else _require_free(port, host)
        environment.install_backends(state_dir / BACKENDS)
        log = state_dir / LOG_FILE
        server = RunningServer(0, host, first, model, str(repository), str(log), str(state_dir))
        command = _command(environment, server, ready_timeout_s)
        if tied:
            command = [str(environment.interpreter), "-I", launch.__file__, str(os.getpid()), *command]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment.variables(),
                start_new_session=True,  # a Ctrl-C in our terminal is ours to handle, not the server's
            )

        def check() -> None:
            if process.poll() is not None:
                raise RiceError(f"tritonserver did not start: {_reason(log)} (log: {log})", 1)

        server = replace(server, pid=process.pid)
        try:
            write_json(state_dir / STATE_FILE, asdict(server))
            server = replace(server, ready_s=server.wait(ready_timeout_s, server.log, check))
            write_json(state_dir / STATE_FILE, asdict(server))
        except BaseException:
            stop(state_dir, CALL_SECONDS)
            raise
    return server


def stop(state_dir: Path, timeout_s: float = STOP_SECONDS) -> float | None:
    """Stop the server of a state folder (kill it after `timeout_s`), and clear all that it made but its log.

    Returns the seconds until the last process was gone, or None where none was running.
    """
    began, processes = time.monotonic(), _processes(state_dir)
    for process in processes:
        if not _is_stub(process) or all(process.info["ppid"] != other.pid for other in processes):
            with suppress(psutil.NoSuchProcess):  # a server ends its stubs itself
                process.terminate()
    psutil.wait_procs(processes, timeout_s)
    left = _processes(state_dir)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, CALL_SECONDS)
    seconds = time.monotonic() - began
    for file in (*_regions(state_dir), state_dir / STATE_FILE):
        file.unlink(missing_ok=True)
    for folder in (*_links(state_dir), state_dir / BACKENDS):
        shutil.rmtree(folder, ignore_errors=True)
    return seconds if processes else None


def read_state(state_dir: Path) -> RunningServer | None:
    """Read which server the folder knows of, running or not; None where it knows of none."""
    try:
        return RunningServer(**read_json(state_dir / STATE_FILE))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def running(state_dir: Path) -> RunningServer | None:
    """Find the folder's server if its process is alive, ready or not."""
    state = read_state(state_dir)
    return state if state is not None and any(p.pid == state.pid for p in _processes(state_dir)) else None


def parse_address(address: str, named: str) -> tuple[str, int]:
    """Split `host:port` of an HTTP endpoint; raises `RiceError` for another form of what is `named` so."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address:
        raise RiceError(f"{named} {address}: write it as host:port of the server's HTTP endpoint, without a scheme")
    return host, int(port)


def resolve_host(host: str) -> str:
    """Look up the IPv4 address of a name to listen on; raises `RiceError` where it has none."""
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError):
        raise RiceError(f"--host {host}: not an IPv4 address, nor the name of one; take {HOST} or 0.0.0.0") from None


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone; no name but `localhost` is."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_ready(host: str, port: int, model: str) -> bool:
    """Whether the classifier on a server and its ensemble answer that they are ready.

    `/v2/health/ready` says no while any model, also one of a version that is let go, is on its way.
    """
    host = HOST if host == "0.0.0.0" else host
    try:
        for name in Names(model).public:
            with closing(http.client.HTTPConnection(host, port, timeout=CALL_SECONDS)) as connection:
                connection.request("GET", f"/v2/models/{name}/ready")
                if connection.getresponse().status != 200:
                    return False
    except (OSError, http.client.HTTPException):
        return False
    return True


def _command(environment: ServingEnvironment, server: RunningServer, ready_timeout_s: float) -> list[str]:
    state_dir, restricted = Path(server.state_dir), list[str]()
    ports = {"http": server.port, "grpc": server.port + 1, "metrics": server.port + 2}
    if not is_loopback(server.host):  # whoever may load a model may run code: such calls need a secret nobody knows
        protected = f"model-repository,shared-memory,trace,logging:rice-control={secrets.token_hex(16)}"
        restricted = [f"--http-restricted-api={protected}", f"--grpc-restricted-protocol={protected}"]
    return [
        str(environment.binary),
        f"--model-repository={_plain_path(Path(server.repository), state_dir)}",
        f"--backend-directory={_plain_path(state_dir / BACKENDS, state_dir)}",
        "--model-control-mode=explicit",  # a version is switched to when we say so, not when a file appears
        *(f"--load-model={name}" for name in Names(server.model).public),
        *(f"--{protocol}-address={server.host}" for protocol in ports),
        *(f"--{protocol}-port={port}" for protocol, port in ports.items()),
        *restricted,
        f"--exit-timeout-secs={int(STOP_SECONDS) - 5}",
        # given to the backend "python", these reach every backend made of it
        f"--backend-config=python,shm-region-prefix-name={_mark(state_dir)}",
        # on a busy machine the stub's imports alone take seconds: its own limit must not be the shorter one
        f"--backend-config=python,stub-timeout-seconds={max(30, int(ready_timeout_s))}",
    ]


def _plain_path(folder: Path, state_dir: Path) -> Path:
    """Give a path of a folder that a shell reads as it is: Triton starts its workers by an unquoted command line."""
    folder = folder.resolve()
    if re.fullmatch(r"[\w@%+=:,./-]+", str(folder), re.ASCII):
        return folder
    link = Path(tempfile.mkdtemp(prefix=_mark(state_dir))) / "link"
    link.symlink_to(folder)
    return link


def _links(state_dir: Path) -> list[Path]:
    """Find the folders of `_plain_path`'s links."""
    return sorted(Path(tempfile.gettempdir()).glob(f"{_mark(state_dir)}*"))


def _reason(log: Path) -> str:
    """Find the line of a server's log that says why it gave up."""
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    for pattern in (r"failed to load '.*' version \d+: (.*)", r"([Ff]ailed to start .*)", r"error: (.*)"):
        if found := re.search(pattern, text):
            return found[1].strip(' \r"')
    return text.rpartition("\n")[2] or "it wrote nothing"


def _mark(state_dir: Path) -> str:
    """Make what everything of this folder's server has in its name."""
    return f"rice_lib_{hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:12]}_"


def _processes(state_dir: Path) -> list[psutil.Process]:
    """Find the folder's server (or the launcher that is about to become it) and its stubs."""
    mark, programs = _mark(state_dir), {"tritonserver", STUB, Path(launch.__file__).name}
    found = []
    for process in psutil.process_iter(["cmdline", "ppid", "status"]):
        words = process.info["cmdline"] or []
        named = any(Path(word).name in programs for word in words[:3])
        if named and any(mark in word for word in words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def _is_stub(process: psutil.Process) -> bool:
    return Path(process.info["cmdline"][0]).name == STUB


def _regions(state_dir: Path) -> list[Path]:
    return sorted(SHARED_MEMORY.glob(f"{_mark(state_dir)}*"))


def _in_use(first: int, host: str = HOST) -> str | None:
    """Name the first port that is in use, of three in a row; None where all are free."""
    for number, name in enumerate(("HTTP", "gRPC", "metrics"), first):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port whose connections linger is free
            try:
                probe.bind((host, number))
            except OSError:
                return f"port {number} ({name}) is in use on {host}"
    return None


def _free_ports() -> int:
    """Find the first of three free ports in a row."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            first = probe.getsockname()[1]
        if first <= LAST_PORT and not _in_use(first):
            return first
    raise RiceError(f"no three free ports in a row on {HOST}", 1)


def _require_free(port: int, host: str) -> int:
    if not 1 <= port <= LAST_PORT:
        raise RiceError(f"port {port}: choose one between 1 and {LAST_PORT} (three in a row are used)")
    if in_use := _in_use(port, host):
        raise RiceError(f"{in_use}: stop what uses it, or choose another --port", 1)
    return port
