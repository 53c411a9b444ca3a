"""The life of a `tritonserver` on this machine: started, ready, stopped, and nothing left behind.

A server belongs to a state folder. Everything it makes carries a name derived from that folder (its processes' command
lines, its shared-memory regions), so that a later command can find and clear what a killed server left, and touches
nothing else. The folder holds `state.json` while a server runs, and the log of the latest one.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

import rice_lib
from rice_lib.common.errors import RiceError
from rice_lib.common.files import locked, read_json, write_json
from rice_lib.serving.environment import ServingEnvironment

HOST = "127.0.0.1"  # the default address: this machine alone can reach it
LAST_PORT = 65533  # two more follow it
CALL_SECONDS = 5.0  # limit of one question about readiness
KEY_FILE = "control.key"  # in a server's folder while it runs, for its owner alone

KEY_NAME = "rice-control"
RESTRICTED = f"model-repository,shared-memory,trace,logging:{KEY_NAME}="
"""What takes the key, as Triton's options say it: whoever may load a model may run code as the server's user."""

STATE_FILE, LOG_FILE, BACKENDS = "state.json", "tritonserver.log", "backends"

STOP_SECONDS = 8.0  # limit for a server to finish its requests and unload its models (1 to 6 s); then it is killed
HIDDEN = {"RICE_HIDDEN_HTTP": "--http-restricted-api=", "RICE_HIDDEN_GRPC": "--grpc-restricted-protocol="}
"""Options that `supervise` keeps off the command line, by the words that stand there."""

STUB = "triton_python_backend_stub"
"""The process of one instance of a Python-based backend. It outlives a killed server by some seconds."""
SUPERVISOR = "rice_lib.serving.supervise"
SHARED_MEMORY = Path("/dev/shm")


def public_models(name: str) -> tuple[str, str]:
    """Name both models that clients call, by the one that takes pixels: the other takes the bytes of files."""
    return name, f"{name}_bytes"


@dataclass(frozen=True)
class RunningServer:
    """A server that was started as a process of this machine: where it listens and what it serves."""

    folder: Path
    """Its state folder."""
    host: str
    port: int
    """HTTP; gRPC is the next port up, Prometheus metrics the one after."""
    model: str
    """The classifier; its ensemble is served too."""
    pid: int
    ready_s: float | None = None
    """Seconds from start to ready; None until then."""

    @property
    def http(self) -> str:
        """`host:port` of the HTTP endpoint."""
        return f"{self.host}:{self.port}"

    @property
    def grpc(self) -> str:
        """`host:port` of the gRPC endpoint."""
        return f"{self.host}:{self.port + 1}"

    @property
    def key(self) -> str:
        """What model control takes."""
        return (self.folder / KEY_FILE).read_text(encoding="ascii")

    @property
    def log(self) -> Path:
        """The file that the server's output goes to."""
        return self.folder / LOG_FILE

    def is_ready(self) -> bool:
        """Whether its models answer that they are ready."""
        return is_ready(self.host, self.port, *public_models(self.model))

    def stop(self) -> float | None:
        """Stop it; see the function `stop`."""
        return stop(self.folder)

    def leftovers(self) -> list[str]:
        """List what of this server is still there: processes (which hold its ports), shared memory and files."""
        files = [*regions(self.folder), *(self.folder / name for name in (STATE_FILE, KEY_FILE, BACKENDS))]
        alive = [f"process {p.pid} ({p.name()})" for p in find(self.folder)]
        return alive + [str(file) for file in files if file.exists()]

    def write(self) -> None:
        """Write `state.json`."""
        write_json(self.folder / STATE_FILE, {k: v for k, v in asdict(self).items() if k != "folder"})


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
        host: the IPv4 address to listen on.
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
        if found := [p for p in find(state_dir) if Path(p.info["cmdline"][0]).name != STUB]:
            where = known.http if (known := read_state(state_dir)) else "an unknown port"
            running_as = f"a server is already running at {where} (pid {found[0].pid})"
            raise RiceError(f"{running_as}; stop it first (rice serve down)", 1)
        stop(state_dir, CALL_SECONDS)  # stubs, shared memory and files of a server that was killed
        first = free_ports() if port is None else require_free(port, host)
        environment.install_backends(state_dir / BACKENDS)
        server = RunningServer(state_dir, host, first, model, pid=0)
        process = _supervise(environment, server, repository, ready_timeout_s, os.getpid() if tied else 0)

        began, server = time.monotonic(), replace(server, pid=process.pid)
        try:
            server.write()
            while not server.is_ready():
                if process.poll() is not None:
                    raise RiceError(f"tritonserver did not start: {_reason(server.log)} (log: {server.log})", 1)
                if time.monotonic() - began > ready_timeout_s:
                    raise RiceError(f"the server was not ready within {ready_timeout_s:g} s (log: {server.log})", 1)
                time.sleep(0.1)
            server = replace(server, ready_s=time.monotonic() - began)
            server.write()
        except BaseException:
            stop(state_dir, CALL_SECONDS)
            raise
    return server


def stop(state_dir: Path, timeout_s: float = STOP_SECONDS) -> float | None:
    """Stop the server of a state folder (kill it after `timeout_s`), and clear all that it made but its log.

    Returns the seconds until the last process was gone, or None where none was running.
    """
    began, found = time.monotonic(), find(state_dir)
    for process in found:
        if all(process.info["ppid"] != other.pid for other in found):  # it ends its children itself
            with suppress(psutil.NoSuchProcess):
                process.terminate()
    psutil.wait_procs(found, timeout_s)
    clear(state_dir)
    seconds = time.monotonic() - began
    for name in (STATE_FILE, KEY_FILE):
        (state_dir / name).unlink(missing_ok=True)
    shutil.rmtree(state_dir / BACKENDS, ignore_errors=True)
    return seconds if found else None


def read_state(state_dir: Path) -> RunningServer | None:
    """Read which server the folder knows of, running or not; None where it knows of none."""
    try:
        return RunningServer(state_dir, **read_json(state_dir / STATE_FILE))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def running(state_dir: Path) -> RunningServer | None:
    """Find the folder's server if its process is alive, ready or not."""
    state = read_state(state_dir)
    return state if state is not None and any(p.pid == state.pid for p in find(state_dir)) else None


def mark(state_dir: Path) -> str:
    """Make what everything of this folder's server has in its name."""
    return f"rice_lib_{hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:12]}_"


def find(state_dir: Path) -> list[psutil.Process]:
    """Find the folder's supervisor, its server and the server's stubs."""
    own, programs = mark(state_dir), {"tritonserver", STUB, SUPERVISOR}
    found = []
    for process in psutil.process_iter(["cmdline", "ppid", "status"]):
        words = process.info["cmdline"] or []
        named = any(Path(word).name in programs for word in words[:4])
        if named and any(own in word for word in words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def regions(state_dir: Path) -> list[Path]:
    """Find the shared memory."""
    return sorted(SHARED_MEMORY.glob(f"{mark(state_dir)}*"))


def clear(state_dir: Path) -> None:
    """Kill the folder's processes, but for the one that calls this, and remove their shared memory."""
    left = [process for process in find(state_dir) if process.pid != os.getpid()]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, CALL_SECONDS)
    for file in regions(state_dir):
        file.unlink(missing_ok=True)


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
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            first = probe.getsockname()[1]
        with suppress(RiceError):
            return require_free(first)


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
                why = f"{host} port {number} ({name}): {error.strerror}; choose another --port or --host"
                raise RiceError(why, 1) from None
    return port


def _supervise(
    environment: ServingEnvironment, server: RunningServer, repository: Path, ready_timeout_s: float, parent: int
) -> subprocess.Popen[str]:
    """Start the process that starts the server, with a new key; see `supervise`."""
    key = make_key(server.folder)
    plan = {
        "command": _command(environment, server, repository, ready_timeout_s),
        "environment": environment.variables(),
        "hidden": {name: option + RESTRICTED + key for name, option in HIDDEN.items()},
    }
    library = str(Path(rice_lib.__file__).resolve().parents[1])
    server.log.unlink(missing_ok=True)
    with server.log.open("ab") as output:  # the server appends to it, too: `supervise` may cut it
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", SUPERVISOR, str(parent), mark(server.folder)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=server.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (library, os.environ.get("PYTHONPATH"))))},
            start_new_session=True,  # a Ctrl-C in our terminal is ours to handle, not the server's
            text=True,
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:  # where it ended at once, its status says so
        json.dump(plan, process.stdin)
    return process


def _command(
    environment: ServingEnvironment, server: RunningServer, repository: Path, ready_timeout_s: float
) -> list[str]:
    ports = {"http": server.port, "grpc": server.port + 1, "metrics": server.port + 2}
    return [
        str(environment.binary.absolute()),
        # from the state folder: Triton starts its workers by an unquoted command line, and a complete path may hold
        # anything
        f"--model-repository={os.path.relpath(repository.resolve(), server.folder.resolve())}",
        f"--backend-directory={BACKENDS}",
        "--model-control-mode=explicit",  # a version is switched to when we say so, not when a file appears
        *(f"--load-model={name}" for name in public_models(server.model)),
        *(f"--{protocol}-address={server.host}" for protocol in ports),
        *(f"--{protocol}-port={port}" for protocol, port in ports.items()),
        *HIDDEN,
        f"--exit-timeout-secs={int(STOP_SECONDS) - 3}",
        # given to the backend "python", these reach every backend made of it
        f"--backend-config=python,shm-region-prefix-name={mark(server.folder)}",
        # on a busy machine the stub's imports alone take seconds: its own limit must not be the shorter one
        f"--backend-config=python,stub-timeout-seconds={max(30, int(ready_timeout_s))}",
    ]


def _reason(log: Path) -> str:
    """Find the line of a server's log that says why it gave up."""
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    for pattern in (r"failed to load '.*' version \d+: (.*)", r"([Ff]ailed to start .*)", r"error: (.*)"):
        if found := re.search(pattern, text):
            return found[1].strip(' \r"')
    return text.rpartition("\n")[2] or "it wrote nothing"
