"""What a server of a state folder has on this machine: processes and shared memory; all carry the folder's mark."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import psutil

STUB = "triton_python_backend_stub"
"""The process of one instance of a Python-based backend. It outlives a killed server by some seconds."""
SUPERVISOR = "rice_lib.serving.supervise"
SHARED_MEMORY = Path("/dev/shm")


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


def is_stub(process: psutil.Process) -> bool:
    """Whether what `find` found is an instance of a model."""
    return Path(process.info["cmdline"][0]).name == STUB


def regions(state_dir: Path) -> list[Path]:
    """Find the shared memory."""
    return sorted(SHARED_MEMORY.glob(f"{mark(state_dir)}*"))


def clear(state_dir: Path, timeout_s: float = 5) -> None:
    """Kill the folder's processes, but for the one that calls this, and remove their shared memory."""
    left = [process for process in find(state_dir) if process.pid != os.getpid()]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout_s)
    for file in regions(state_dir):
        file.unlink(missing_ok=True)
