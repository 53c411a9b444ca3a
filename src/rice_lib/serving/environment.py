"""The serving environment: where a real `tritonserver` lies, and what it takes to start it without a container.

The server comes from the wheel of nvidia-pytriton, in a virtual environment of its own (`.venv-serve`), because that
wheel needs numpy 1.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from rice_lib.common.errors import RiceError

DIRECTORY = ".venv-serve"
HOW_TO_MAKE = "`make serve-env` makes it"

PROBE_SECONDS = 60  # limit of asking the environment about itself; slow only on a busy machine with a cold disk
_PROBE = """
import json, sys, sysconfig
from importlib.metadata import version

python, (numpy, *_) = "%d.%d" % sys.version_info[:2], map(version, ("numpy", "nvidia-pytriton", "onnxruntime"))
print(json.dumps([sysconfig.get_path("platlib"), python, sysconfig.get_config_var("LIBDIR"), numpy]))
"""


class MissingEnvironmentError(RiceError):
    """No serving environment, or a Python that none can be made of: this machine as it is cannot serve."""


@dataclass(frozen=True)
class ServingEnvironment:
    """A virtual environment with a `tritonserver` that can be started."""

    root: Path
    """The virtual environment's folder."""
    site: Path
    """Its site-packages."""
    python: str
    """Version of its interpreter, as `3.11`: there is one backend stub for each."""
    libdir: Path
    """Where its interpreter's libpython lies."""

    @classmethod
    def find(cls, root: Path) -> ServingEnvironment:
        """Find the environment of a checkout: `.venv-serve`, or what `RICE_SERVE_ENV` names.

        Raises `RiceError` where it is broken, `MissingEnvironmentError` where there is none or its Python is too new.
        """
        shown = os.environ.get("RICE_SERVE_ENV") or DIRECTORY  # a notebook prints it: no private path
        folder = root / shown
        python = folder / "bin" / "python"
        if not python.exists():
            raise MissingEnvironmentError(f"{shown}: no serving environment; {HOW_TO_MAKE}")
        site, version, libdir, numpy = _probe(python)
        if not numpy.startswith("1."):
            raise MissingEnvironmentError(
                f"{shown}: its Python {version} has no numpy 1, which the server's Python backend was built "
                "for; make it again with another: rm -r .venv-serve; make serve-env SERVE_PYTHON=python3.12"
            )
        found = cls(folder, Path(site), version, Path(libdir))
        stub = subprocess.run([found._stub], env=found.variables(), capture_output=True, text=True, check=False)
        if stub.returncode == 127:  # the loader's; without arguments the stub itself ends with 1
            why = f"the server's stub does not start ({stub.stderr.strip()})"
            raise RiceError(f"{shown}: {why}; Debian, Ubuntu: apt install libpython{version}")
        return found

    @property
    def interpreter(self) -> Path:
        """Its Python."""
        return self.root / "bin" / "python"

    @property
    def binary(self) -> Path:
        """The server."""
        return self._triton / "bin" / "tritonserver"

    @property
    def _triton(self) -> Path:
        return self.site / "pytriton" / "tritonserver"

    @property
    def _stub(self) -> Path:
        return self._triton / "python_backend_stubs" / self.python / "triton_python_backend_stub"

    def variables(self) -> dict[str, str]:
        """Make the environment variables of a server's process.

        The stub is an executable that embeds Python: it needs the wheel's own libraries and the interpreter's
        libpython by LD_LIBRARY_PATH (else it hangs in "loading"), and takes the first python of PATH for its prefix.
        """
        variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        variables["PATH"] = os.pathsep.join((str(self.interpreter.parent), os.environ.get("PATH", os.defpath)))
        libraries = (str(self.site / "nvidia_pytriton.libs"), str(self.libdir), os.environ.get("LD_LIBRARY_PATH", ""))
        variables["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
        return {"ORT_DISABLE_TELEMETRY": "1", **variables}

    def install_backends(self, target: Path) -> None:
        """Lay out the folder for `--backend-directory`: the Python backend, and our `onnxruntime` made of it.

        Copies, not links: the server looks for the stub and its helper module beside the library's real path.
        """
        shutil.rmtree(target, ignore_errors=True)
        python = target / "python"
        python.mkdir(parents=True)
        backend = self._triton / "backends" / "python"
        for file in (backend / "libtriton_python.so", backend / "triton_python_backend_utils.py", self._stub):
            shutil.copy(file, python)
        ours = Path(__file__).with_name("backend") / "onnxruntime"
        shutil.copytree(ours, target / "onnxruntime", ignore=shutil.ignore_patterns("__pycache__"))


def _probe(python: Path) -> list:
    command = [str(python), "-I", "-c", _PROBE]
    try:
        return json.loads(subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS, check=True).stdout)
    except (OSError, subprocess.SubprocessError) as error:
        said = ((getattr(error, "stderr", b"") or b"").decode().strip() or str(error)).splitlines()[-1]
        raise RiceError(f"{python}: the serving environment is broken ({said}); remove it, {HOW_TO_MAKE}") from None
