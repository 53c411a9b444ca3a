"""The server in NVIDIA's container, by `docker compose`, where an engine can run one.

It runs `serving/compose.yaml`, with `serving/compose.gpu.yaml` over it on a machine with a GPU: the same repository,
the same ports, the same address.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from rice_lib.common.errors import RiceError
from rice_lib.serving.server import is_ready

PROBE_SECONDS = 20
COMMAND_SECONDS = 3600
"""Limit of one command: the first `up` fetches the image, some 15 GB."""


def has_engine() -> bool:
    """Whether `docker compose` is here and its engine answers."""
    try:
        for words in (("compose", "version"), ("info",)):
            subprocess.run(["docker", *words], capture_output=True, timeout=PROBE_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


@dataclass(frozen=True)
class Container:
    """A container that serves one repository."""

    root: Path
    """The checkout, whose `serving/` has the compose files and whose `models/` holds the repository."""
    repository: Path
    model: str
    host: str
    port: int
    engine: str | None
    """`gpu` or `tensorrt`: which configuration of the models (`RICE_ENGINE`). None: no GPU."""

    def up(self, ready_timeout_s: float) -> float:
        """Build the image, start the container and wait until its models are ready; returns the seconds it took."""
        began = time.monotonic()
        self._run("up", "--detach", "--build")
        while not is_ready(self.host, self.port, self.model):
            if time.monotonic() - began > ready_timeout_s:
                self.down()
                raise RiceError(f"the container was not ready within {ready_timeout_s:g} s; see: rice serve logs", 1)
            time.sleep(0.5)
        return time.monotonic() - began

    def down(self) -> None:
        """Stop and remove the container."""
        self._run("down", "--timeout", "40")

    def logs(self, lines: int, follow: bool) -> None:
        """Print the container's log."""
        self._run("logs", "--tail", str(lines), *(["--follow"] if follow else []), quiet=False)

    def variables(self) -> dict[str, str]:
        """Make the environment variables that the compose files read."""
        service = self.repository.resolve().relative_to((self.root / "models").resolve()).as_posix()
        ports = {"": self.port, "_GRPC": self.port + 1, "_METRICS": self.port + 2}
        return {
            "RICE_SERVICE": service, "RICE_MODEL": self.model, "RICE_HOST": self.host,
            "RICE_UID": str(os.getuid()), "RICE_GID": str(os.getgid()),
            **{f"RICE{protocol}_PORT": str(port) for protocol, port in ports.items()},
            **({"RICE_ENGINE": self.engine} if self.engine else {}),
        }  # fmt: skip

    def _run(self, *words: str, quiet: bool = True) -> None:
        files = ["serving/compose.yaml", *(["serving/compose.gpu.yaml"] if self.engine else [])]
        try:
            done = subprocess.run(
                ["docker", "compose", *(word for file in files for word in ("--file", file)), *words],
                cwd=self.root,
                env={**os.environ, **self.variables()},
                stderr=subprocess.PIPE if quiet else None,
                text=True,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RiceError(f"docker compose {words[0]}: {error}", 1) from None
        if done.returncode:
            said = (done.stderr or "").strip().splitlines() or [f"status {done.returncode}"]
            raise RiceError(f"docker compose {words[0]}: {said[-1]}", 1)
