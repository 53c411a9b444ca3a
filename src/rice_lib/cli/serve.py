"""A model served by Triton on this machine: `rice serve build|up|down|status|health`.

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
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from rice_lib.backends.open import default_model
from rice_lib.cli.arguments import positive
from rice_lib.common.errors import RiceError
from rice_lib.common.parameters import ServeParams, load_params
from rice_lib.common.paths import Paths, find_root
from rice_lib.serving import server as life
from rice_lib.serving.control import Control
from rice_lib.serving.environment import ServingEnvironment
from rice_lib.serving.health import fault
from rice_lib.serving.release import release, roll_back
from rice_lib.serving.repository import Repository, Version

DEFAULT_PORT = 8000


@dataclass(frozen=True)
class Service:
    """What a command works on: one repository, and the server of it."""

    folder: Path
    model: Path
    params: ServeParams

    @classmethod
    def of(cls, options: argparse.Namespace) -> Service:
        """Find the service of a profile, or of the model that ships."""
        if options.profile is None:
            return cls(find_root() / "models" / "service", default_model(), ServeParams())
        params = load_params(options.profile)
        paths = Paths.of(params.profile)
        return cls(paths.service, paths.onnx / "model.onnx", params.serve)

    @property
    def repository(self) -> Repository:
        """Every version that was in service."""
        return Repository(self.folder / "repository", self.params.model_name)


def main(arguments: Sequence[str] | None = None, prog: str = "rice serve") -> int:
    """Run one of the commands; returns its exit status."""
    options = parser(prog).parse_args(arguments)
    return int(options.act(options) if options.act is _health else options.act(Service.of(options), options))


def _build(service: Service, options: argparse.Namespace) -> int:
    if options.rollback:
        version = roll_back(service.repository, life.running(service.folder))
        print(f"version {version.version} answers again: {version.source}")
    else:
        version = _add(service, options)
        print(f"version {version.version} answers: {version.source}")
    return 0


def _add(service: Service, options: argparse.Namespace) -> Version:
    model = options.model or service.model
    if not model.is_file():
        run_first = "" if options.model else f" run the profile first (make report PROFILE={options.profile}), or"
        raise RiceError(f"{model}: no such model;{run_first} name an .onnx file with --model")
    repository = service.repository
    with repository.held():
        repository.mend()
        before, server = repository.active(), life.running(service.folder)
        made = repository.add(model, service.params.max_batch_size, options.instances)
        if before is None or made.version != before.version:
            release(repository, made, server)
        elif server is not None:
            with Control(server) as control:  # which a killed build may have left with the version before
                if any(control.version(name) != made.version for name in repository.public):
                    repository.switch(made.version, control)
    return made


def _up(service: Service, options: argparse.Namespace) -> int:
    if (running := life.running(service.folder)) is not None:
        raise RiceError(f"a server is already running at {running.http}; stop it first (rice serve down)", 1)
    environment = ServingEnvironment.find(find_root())
    if options.model or service.repository.active() is None:
        _add(service, options)
    else:
        service.repository.mend()
    timeout, began = options.timeout or service.params.ready_timeout_s, time.monotonic()
    if not options.host.is_loopback:
        print(f"note: {options.host} can be reached by others: put a proxy with authentication before it")
    folder, name = service.repository.folder, service.params.model_name
    at = {"host": str(options.host), "port": options.port}
    server = life.start(environment, folder, name, service.folder, **at, ready_timeout_s=timeout, tied=False)
    print(f"ready after {time.monotonic() - began:.1f} s")
    _describe(service, server)
    return 0


def _down(service: Service, options: argparse.Namespace) -> int:
    seconds = life.stop(service.folder)
    print("no server was running" if seconds is None else f"stopped after {seconds:.1f} s")
    return 0


def _status(service: Service, options: argparse.Namespace) -> int:
    if (server := life.running(service.folder)) is None:
        print("no server is running")
        return 1
    wrong = fault(server.host, server.port, server.model)
    print(f"running, but {wrong}" if wrong else "ready")
    _describe(service, server)
    return 1 if wrong else 0


def _health(options: argparse.Namespace) -> int:
    wrong = fault(*life.parse_address(options.url, "--url"), options.name)
    print(f"{options.url}: {wrong or 'ready'}")
    return 1 if wrong else 0


def _describe(service: Service, server: life.RunningServer) -> None:
    active, (pixels, files) = service.repository.active(), service.repository.public
    rows = {
        "version": f"{active.version} ({active.source})" if active else "none",
        "pixels": f"triton://{server.http}/{pixels}",
        "files": f"triton://{server.http}/{files}",
        "gRPC": f"triton+grpc://{server.grpc}/{pixels}",
        "metrics": f"http://{server.host}:{server.port + 2}/metrics",
        "pid": server.pid,
        "log": os.path.relpath(server.log),
    }
    for name, value in rows.items():
        print(f"  {name:9}{value}")


def parser(prog: str = "rice serve") -> argparse.ArgumentParser:
    """Make the command's arguments."""
    serve = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").partition(": `")[0] + ".")
    commands = serve.add_subparsers(dest="command", required=True, metavar="build|up|down|status|health")
    add = {}
    for name, act, text in (
        ("build", _build, "write a new version, check it, and have it answer"),
        ("up", _up, "start the server and wait until it is ready and warm"),
        ("down", _down, "stop it and clear what it made; fine where none runs"),
        ("status", _status, "exit status 0 where it can answer, else 1"),
        ("health", _health, "exit status 0 where any server, also elsewhere, answers by every worker, else 1"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(act=act)
        add[name] = command.add_argument
        if name != "health":
            add[name]("--profile", help="whose model and settings (default: the model that ships)")
        if name == "up":
            command.set_defaults(instances=None)  # an option of `build` alone
    for name in ("build", "up"):
        add[name]("--model", type=Path, metavar="M.onnx", help="default: the profile's own export")
    add["build"]("--instances", type=positive, metavar="N", help="of each model, on a CPU (default: the cores)")
    add["build"]("--rollback", action="store_true", help="roll back to the version that answered before")
    add["up"]("--host", type=IPv4Address, default=life.HOST, help="IPv4 address to listen on (default: %(default)s)")
    text = "HTTP; gRPC and metrics are the next two (default: %(default)s)"
    add["up"]("--port", type=int, default=DEFAULT_PORT, help=text)
    add["up"]("--timeout", type=float, metavar="S", help="seconds to wait until ready")
    url = f"{life.HOST}:{DEFAULT_PORT}"
    add["health"]("--url", default=url, metavar="HOST:PORT", help="HTTP (default: %(default)s)")
    add["health"]("--name", default=ServeParams().model_name, metavar="MODEL", help="default: %(default)s")
    return serve
