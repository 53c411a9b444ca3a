"""A model served by Triton on this machine: `python -m rice_lib.serve up|down|status`.

`up` writes the model repository, starts a real `tritonserver` on the loopback and returns when the model is
ready; the server goes on until `down`. `status` leaves with 0 where the model is ready, else 1.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path

from rice_lib.deploy.triton import server as life
from rice_lib.deploy.triton.environment import ServingEnvironment
from rice_lib.deploy.triton.repository import write_repository
from rice_lib.errors import RiceError, run_command
from rice_lib.run import Run

PROG = "python -m rice_lib.serve"
DEFAULT_PORT = 8000


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run one of the commands; returns its exit status."""
    options = parser(prog).parse_args(arguments)
    run = Run.open(options.profile)
    return {"up": _up, "down": _down, "status": _status}[options.command](run, options)


def _up(run: Run, options: argparse.Namespace) -> int:
    model = options.model or run.paths.onnx / "model.onnx"
    if not model.is_file():
        raise RiceError(
            f"{run.paths.relative(model)}: no such model; run the profile first (make report PROFILE="
            f"{run.params.profile}), or name an .onnx file with --model"
        )
    environment = ServingEnvironment.find(run.paths.root)
    state_dir, serve = life.server_dir(run.paths), run.params.serve
    if (already := life.running(state_dir)) is not None:
        # before the repository is written: a running server may still read from it
        raise life.already_running(already.http, already.pid)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # told to end while starting: leave no server
    write_repository(model, run.paths.repository, serve.model_name, serve.max_batch_size)
    server = life.start(
        environment,
        run.paths.repository,
        serve.model_name,
        state_dir,
        port=options.port,
        ready_timeout_s=options.timeout or serve.ready_timeout_s,
        tied=False,
    )
    print(f"ready after {server.ready_s:.1f} s")
    _describe(server)
    return 0


def _down(run: Run, options: argparse.Namespace) -> int:
    seconds = life.stop(life.server_dir(run.paths))
    print("no server was running" if seconds is None else f"stopped after {seconds:.1f} s")
    return 0


def _status(run: Run, options: argparse.Namespace) -> int:
    server = life.running(life.server_dir(run.paths))
    if server is None:
        print("no server is running")
        return 1
    ready = server.is_ready()
    print("ready" if ready else "running, but not ready")
    _describe(server)
    return 0 if ready else 1


def _describe(server: life.RunningServer) -> None:
    rows = {
        "model": server.model,
        "HTTP": f"triton://{server.http}/{server.model}",
        "gRPC": f"triton+grpc://{server.grpc}/{server.model}",
        "metrics": f"http://{server.metrics}/metrics",
        "pid": server.pid,
        "log": server.log,
    }
    for name, value in rows.items():
        print(f"  {name:8}{value}")


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command's arguments."""
    whole = argparse.ArgumentParser(prog=prog, description=__doc__.partition(": `")[0] + ".")
    commands = whole.add_subparsers(dest="command", required=True, metavar="up|down|status")
    for name, text in (
        ("up", "write the repository, start the server, wait until it is ready"),
        ("down", "stop it and clear what it made; fine where none runs"),
        ("status", "exit status 0 where the model is ready, else 1"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--profile", default="smoke", help="whose model and parameters (default: smoke)")
        if name == "up":
            command.add_argument("--model", type=Path, metavar="M.onnx", help="default: the profile's own export")
            command.add_argument(
                "--port",
                type=int,
                default=DEFAULT_PORT,
                help="HTTP; gRPC and metrics are the next two (default: 8000)",
            )
            command.add_argument("--timeout", type=float, metavar="S", help="seconds to wait until ready")
    return whole


if __name__ == "__main__":
    run_command(main)
