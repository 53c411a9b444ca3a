"""A model served by Triton on this machine: `rice serve build|up|down|status|logs|health`.

    rice serve up                                  the model that ships, ready when this returns
    rice serve build --model new.onnx              a new version: checked beside the old one, then switched to
    rice serve build --rollback                    back to the version before
    rice serve health --url 127.0.0.1:8000         exit status 0 where it can answer, for an orchestrator

The server listens on the loopback address and runs until `down`. Without `--profile` it serves the model that ships,
from `models/service/`; with one, the profile's export, from `models/<profile>/service/`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rice_lib.backends.open import default_model
from rice_lib.cli.arguments import positive
from rice_lib.common.errors import RiceError
from rice_lib.common.files import read_json, write_json
from rice_lib.common.parameters import ServeParams, load_params
from rice_lib.common.paths import Paths, find_root
from rice_lib.serving import server as life
from rice_lib.serving.compose import Container, has_engine
from rice_lib.serving.config import Engine
from rice_lib.serving.environment import MissingEnvironmentError, ServingEnvironment
from rice_lib.serving.release import release, roll_back
from rice_lib.serving.repository import Repository, Version

PROG = "rice serve"
DEFAULT_PORT = 8000
LOG_LINES = 40
CONTAINER_FILE = "container.json"
"""In the service's folder while a container serves it: `host`, `port` and `engine`."""


@dataclass(frozen=True)
class Service:
    """What a command works on: one repository, and the server of it, a process or a container."""

    root: Path
    folder: Path
    model: Path
    params: ServeParams

    @classmethod
    def of(cls, options: argparse.Namespace) -> Service:
        """Find the service of a profile, or of the model that ships."""
        root = find_root()
        if options.profile is None:
            return cls(root, root / "models" / "service", default_model(), ServeParams())
        params = load_params(options.profile)
        paths = Paths.of(params.profile)
        return cls(root, paths.service, paths.onnx / "model.onnx", params.serve)

    @property
    def repository(self) -> Repository:
        """Every version that was in service."""
        return Repository(self.folder / "repository", self.params.model_name)

    def container(self) -> Container | None:
        """Find the container that serves it; None where none was started."""
        try:
            settings = read_json(self.folder / CONTAINER_FILE)
            return Container(self.root, self.repository.folder, self.params.model_name, **settings)
        except (OSError, ValueError, TypeError):
            return None

    def address(self) -> tuple[str, int] | None:
        """Find host and HTTP port of the running server; None where none runs."""
        server = self.container() or life.running(self.folder)
        return (server.host, server.port) if server else None

    def control(self) -> str | None:
        """Find `host:port` of gRPC of a server that can load a version; says so where it must be started again."""
        if (address := self.address()) is None:
            return None
        host, port = address
        if life.is_loopback(host):
            return f"{host}:{port + 1}"
        print("note: model control is disabled on a public address: run rice serve down, then up", file=sys.stderr)
        return None


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run one of the commands; returns its exit status."""
    options = parser(prog).parse_args(arguments)
    return int(options.act(options))


def _build(options: argparse.Namespace) -> int:
    service = Service.of(options)
    if options.rollback:
        version = roll_back(service.repository, service.control())
        print(f"version {version.version} answers again: {version.source}")
    else:
        version = _add(service, options)
        print(f"version {version.version} answers: {version.source}, {version.engine}")
    return 0


def _add(service: Service, options: argparse.Namespace) -> Version:
    model = options.model or service.model
    if not model.is_file():
        run_first = f"; run the profile first (make report PROFILE={options.profile})"
        remedy = "" if options.model else f"{run_first}, or"
        raise RiceError(f"{model}: no such model{remedy or ';'} name an .onnx file with --model")
    if options.engine == "plan" and options.plan is None:
        raise RiceError("rice serve build --engine plan: name the plan with --plan (serving/build_plan.sh builds one)")
    repository = service.repository
    with repository.held():
        before = repository.active()
        engine: Engine = "tensorrt" if options.engine == "plan" else "onnxruntime"
        made = repository.add(model, service.params.max_batch_size, options.instances, engine, options.plan)
        if before is None or made.version != before.version:
            release(repository, made, service.control())
    return made


def _up(options: argparse.Namespace) -> int:
    service = Service.of(options)
    if (running := service.address()) is not None:
        raise RiceError(f"a server is already running at {running[0]}:{running[1]}; stop it first (rice serve down)", 1)
    host = life.resolve_host(options.host)
    by_container = options.by == "docker" or (options.by == "auto" and has_engine())
    try:
        environment = None if by_container else ServingEnvironment.find(service.root)
    except MissingEnvironmentError as missing:
        raise RiceError(f"{missing}; and no docker engine answers" if options.by == "auto" else str(missing)) from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended while starting: leave no server
    if options.model or service.repository.active() is None:
        _add(service, options)
    timeout = options.timeout or service.params.ready_timeout_s
    if not life.is_loopback(host):
        print(f"note: {host} can be reached by others: put a proxy with authentication before it")
    if environment is None:
        seconds = _start_container(service, host, options.port, timeout)
    else:
        folder, name, at = service.repository.folder, service.params.model_name, {"host": host, "port": options.port}
        server = life.start(environment, folder, name, service.folder, **at, ready_timeout_s=timeout, tied=False)
        seconds = server.ready_s or 0.0
    print(f"ready after {seconds:.1f} s")
    _describe(service)
    return 0


def _start_container(service: Service, host: str, port: int, timeout: float) -> float:
    active, engine = service.repository.active(), None
    if shutil.which("nvidia-smi"):
        engine = "tensorrt" if active is not None and active.engine == "tensorrt" else "gpu"
    write_json(service.folder / CONTAINER_FILE, {"host": host, "port": port, "engine": engine})
    container = service.container()  # written first, so that what is started can be stopped
    assert container is not None
    try:
        return container.up(timeout)
    except BaseException:
        (service.folder / CONTAINER_FILE).unlink(missing_ok=True)
        raise


def _down(options: argparse.Namespace) -> int:
    service = Service.of(options)
    if (container := service.container()) is not None:
        container.down()
        (service.folder / CONTAINER_FILE).unlink()
        print("stopped")
        return 0
    seconds = life.stop(service.folder)
    print("no server was running" if seconds is None else f"stopped after {seconds:.1f} s")
    return 0


def _status(options: argparse.Namespace) -> int:
    service = Service.of(options)
    if (address := service.address()) is None:
        print("no server is running")
        return 1
    ready = life.is_ready(*address, service.params.model_name)
    print("ready" if ready else "running, but not ready")
    _describe(service)
    return 0 if ready else 1


def _logs(options: argparse.Namespace) -> int:
    service = Service.of(options)
    if (container := service.container()) is not None:
        container.logs(options.lines, options.follow)
        return 0
    log = service.folder / life.LOG_FILE
    if not log.is_file():
        raise RiceError(f"{log}: no log; no server was started yet (rice serve up)", 1)
    with log.open(encoding="utf-8", errors="replace") as stream:
        sys.stdout.writelines(deque(stream, options.lines))
        while options.follow:
            sys.stdout.write(stream.read())
            sys.stdout.flush()
            time.sleep(0.5)
    return 0


def _health(options: argparse.Namespace) -> int:
    host, _, port = options.url.rpartition(":")
    if not host or not port.isdecimal():
        raise RiceError(f"--url {options.url}: write it as host:port of the server's HTTP endpoint")
    ready = life.is_ready(host, int(port), options.name)
    print(f"{options.url}: {'ready' if ready else 'not ready'}")
    return 0 if ready else 1


def _describe(service: Service) -> None:
    (host, port), active = service.address() or ("", 0), service.repository.active()
    names, server = service.repository.names, life.running(service.folder)
    rows = {
        "version": f"{active.version} ({active.source})" if active else "none",
        "pixels": f"triton://{host}:{port}/{names.classifier}",
        "files": f"triton://{host}:{port}/{names.ensemble}",
        "gRPC": f"triton+grpc://{host}:{port + 1}/{names.classifier}",
        "metrics": f"http://{host}:{port + 2}/metrics",
        "pid": "in a container" if server is None else server.pid,
        "log": "rice serve logs" if server is None else os.path.relpath(server.log),
    }
    for name, value in rows.items():
        print(f"  {name:9}{value}")


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Make the command's arguments."""
    serve = argparse.ArgumentParser(prog=prog, description=__doc__.partition(": `")[0] + ".")
    commands = serve.add_subparsers(dest="command", required=True, metavar="build|up|down|status|logs|health")
    added = {}
    for name, act, text in (
        ("build", _build, "write a new version, check it, and have it answer"),
        ("up", _up, "start the server and wait until it is ready and warm"),
        ("down", _down, "stop it and clear what it made; fine where none runs"),
        ("status", _status, "exit status 0 where it can answer, else 1"),
        ("logs", _logs, "print the server's log"),
        ("health", _health, "exit status 0 where any server, also elsewhere, can answer, else 1"),
    ):
        added[name] = commands.add_parser(name, help=text, description=text)
        added[name].set_defaults(act=act)
        if name != "health":
            added[name].add_argument("--profile", help="whose model and settings (default: the model that ships)")
    for name in ("build", "up"):
        added[name].add_argument("--model", type=Path, metavar="M.onnx", help="default: the profile's own export")

    build = added["build"].add_argument
    build("--engine", choices=("onnx", "plan"), default="onnx", help="ONNX Runtime or a TensorRT plan (default: onnx)")
    build("--plan", type=Path, metavar="M.plan", help="the plan; serving/build_plan.sh builds one")
    build("--instances", type=positive, metavar="N", help="of each model, on a CPU (default: the cores)")
    build("--rollback", action="store_true", help="roll back to the version that answered before")

    up = added["up"].add_argument
    by = "a container where docker's engine answers, else the server of .venv-serve (default: auto)"
    up("--by", choices=("auto", "wheel", "docker"), default="auto", help=by)
    up("--host", default=life.HOST, help="the IPv4 address to listen on (default: %(default)s)")
    up("--port", type=int, default=DEFAULT_PORT, help="HTTP; gRPC and metrics are the next two (default: 8000)")
    up("--timeout", type=float, metavar="S", help="seconds to wait until ready")
    added["up"].set_defaults(engine="onnx", plan=None, instances=None)  # options of `build` alone

    logs, health = added["logs"].add_argument, added["health"].add_argument
    logs("--lines", "-n", type=positive, default=LOG_LINES, metavar="N", help="the last N (default: %(default)s)")
    logs("--follow", "-f", action="store_true", help="print more as the log grows, until Ctrl-C")
    health("--url", default=f"{life.HOST}:{DEFAULT_PORT}", metavar="HOST:PORT", help="HTTP (default: %(default)s)")
    health("--name", default=ServeParams().model_name, metavar="MODEL", help="default: %(default)s")
    return serve
