"""The server in NVIDIA's container, by `docker compose`, where an engine can run one.

It runs `serving/compose.yaml`, with `serving/compose.gpu.yaml` over it on a machine with a GPU: the same repository,
the same ports, the same address. A file beside the repository keeps what a container was started with, until `down`.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rice_lib.common.errors import RiceError
from rice_lib.common.files import read_json, write_json
from rice_lib.serving.endpoint import KEY_FILE, Endpoint, make_key

STATE_FILE = "container.json"
STOP_SECONDS = 15  # start.sh has the server end after 8
PROBE_SECONDS = 20
COMMAND_SECONDS = 3600  # limit of one command: the first `up` fetches the image, some 15 GB


def has_engine() -> bool:
    """Whether `docker compose` is here and its engine answers."""
    try:
        for words in (("compose", "version"), ("info",)):
            subprocess.run(["docker", *words], capture_output=True, timeout=PROBE_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


@dataclass(frozen=True)
class Container(Endpoint):
    """A container that serves `folder`/repository."""

    engine: str | None
    """`gpu` or `tensorrt`: which configuration of the models (`RICE_ENGINE`). None: no GPU."""
    root: Path
    """The checkout, whose `serving/` has the compose files and whose `models/` holds the repository."""

    @classmethod
    def find(cls, root: Path, folder: Path, model: str) -> Container | None:
        """Find the container that serves a folder's repository; None where none runs, or no engine does."""
        try:
            found = cls(folder, model=model, root=root, **read_json(folder / STATE_FILE))
            return found if found._run("ps", "--quiet") else None
        except (OSError, ValueError, TypeError, RiceError):
            return None

    def up(self, ready_timeout_s: float) -> Self:
        """Build the image, start the container and wait until its models are ready; returns itself.

        Raises `RiceError` where it does not start or is not ready in time; nothing is left.
        """
        # written first, so that what is started can be stopped
        write_json(self.folder / STATE_FILE, {"host": self.host, "port": self.port, "engine": self.engine})
        make_key(self.folder)
        try:
            self._run("up", "--detach", "--build")
            self.wait(ready_timeout_s, "rice serve logs")
            return self
        except BaseException:
            with suppress(RiceError):
                self.down()
            self._forget()
            raise

    def down(self) -> None:
        """Stop and remove the container."""
        self._run("down", "--timeout", str(STOP_SECONDS))
        self._forget()

    def logs(self, lines: int, follow: bool) -> None:
        """Print the container's log."""
        self._run("logs", "--tail", str(lines), *(["--follow"] if follow else []), quiet=False)

    def variables(self) -> dict[str, str]:
        """Make the environment variables that the compose files read."""
        service = (self.folder / "repository").resolve().relative_to((self.root / "models").resolve())
        variables = {
            "SERVICE": service.as_posix(), "MODEL": self.model, "ENGINE": self.engine, "KEY": self.key,
            "HOST": self.host, "PORT": self.port, "GRPC_PORT": self.port + 1, "METRICS_PORT": self.port + 2,
            "UID": os.getuid(), "GID": os.getgid(),
        }  # fmt: skip
        return {f"RICE_{name}": str(value) for name, value in variables.items() if value is not None}

    def _forget(self) -> None:
        for name in (STATE_FILE, KEY_FILE):
            (self.folder / name).unlink(missing_ok=True)

    def _run(self, *words: str, quiet: bool = True) -> str:
        """Run `docker compose`; returns what it printed, where it is quiet."""
        files = ["serving/compose.yaml", *(["serving/compose.gpu.yaml"] if self.engine else [])]
        try:
            done = subprocess.run(
                ["docker", "compose", *(word for file in files for word in ("--file", file)), *words],
                cwd=self.root,
                env={**os.environ, **self.variables()},
                capture_output=quiet,
                text=True,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RiceError(f"docker compose {words[0]}: {error}", 1) from None
        if done.returncode:
            said = (done.stderr or "").strip().splitlines() or [f"status {done.returncode}"]
            raise RiceError(f"docker compose {words[0]}: {said[-1]}", 1)
        return done.stdout or ""
