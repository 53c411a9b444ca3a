"""A server that a benchmark starts for itself: its processes' time and memory, and its own statistics."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from rice_lib.common.errors import RiceError
from rice_lib.common.paths import find_root
from rice_lib.serving import server as life
from rice_lib.serving.environment import ServingEnvironment
from rice_lib.serving.repository import write_repository

MODEL = "rice"
"""The name that the benchmarks' servers serve a model by."""

READY_S = 180.0
GRPC_THREADS = ("grpc_global_tim", "timer_manager")
SAMPLE_S = 0.2
MIB = 2**20


@contextmanager
def serving(model: Path, folder: Path, max_batch: int) -> Iterator[life.RunningServer]:
    """Start a server with a repository and a state folder of its own, on free ports; stop it at the end.

    Args:
        model: an ONNX file of this project.
        folder: where the two folders are made.
        max_batch: most images of one request.

    Raises:
        RiceError: there is no serving environment, the model is none, or the server did not start.
    """
    environment = ServingEnvironment.find(find_root())
    write_repository(model, folder / "repository", MODEL, max_batch)
    server = life.start(environment, folder / "repository", MODEL, folder / "server", ready_timeout_s=READY_S)
    try:
        yield server
    finally:
        server.stop()


def cpu_seconds(pid: int | None) -> dict[str, float]:
    """Read a server's CPU seconds since it started, user and system: of its own process (`server`), and of its models'
    by the models' names, all instances together; nothing where there is no `pid`."""
    spent: dict[str, float] = {}
    for name, process in _parts(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        spent[name] = spent.get(name, 0.0) + times.user + times.system
    return spent


def front_seconds(pid: int) -> float:
    """Read the CPU seconds of the threads that read a server's HTTP requests and send its responses.

    Triton 2.51 starts them last, behind gRPC's, which name themselves; gRPC's own do nothing where nobody calls it.
    """
    (server,) = (process for name, process in _parts(pid) if name == "server")
    names = {t.id: Path(f"/proc/{server.pid}/task/{t.id}/comm").read_text().strip() for t in server.threads()}
    last = max(number for number, name in names.items() if name in GRPC_THREADS)
    return sum(each.user_time + each.system_time for each in server.threads() if each.id > last)


def memory_mib(pid: int) -> float:
    """Read the resident memory of a server and its models' processes; memory that they share counts in each."""
    total = 0
    for _, process in _parts(pid):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / MIB


def _parts(pid: int | None) -> Iterator[tuple[str, psutil.Process]]:
    if pid is None or not psutil.pid_exists(pid):
        return
    supervisor = psutil.Process(pid)
    yield "supervisor", supervisor
    for child in supervisor.children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.NoSuchProcess:
            continue
        if words and Path(words[0]).name == life.STUB:  # its first argument is <repository>/<model>/<version>/<file>
            yield Path(words[1]).parents[1].name, child
        else:
            yield "server", child


def statistics(address: str) -> dict[str, dict[str, float]]:
    """Read the server's sums since it started, by model: `inferences` (images), `executions`, `requests`, and
    nanoseconds in `queue` and `compute`."""
    connection = http.client.HTTPConnection(address, timeout=READY_S)
    try:
        connection.request("GET", "/v2/models/stats")
        models = json.loads(connection.getresponse().read())["model_stats"]
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise RiceError(f"benchmark: {address} gives no statistics ({error})", 1) from None
    finally:
        connection.close()
    sums: dict[str, dict[str, float]] = {}
    for model in models:  # one entry a version
        spent = model["inference_stats"]
        found = {
            "inferences": model.get("inference_count", 0),
            "executions": model.get("execution_count", 0),
            "requests": spent["success"].get("count", 0),
            "queue": spent["queue"].get("ns", 0),
            "compute": sum(spent[f"compute_{part}"].get("ns", 0) for part in ("input", "infer", "output")),
        }
        known = sums.setdefault(model["name"], dict.fromkeys(found, 0))
        sums[model["name"]] = {name: known[name] + value for name, value in found.items()}
    return sums


def split(model: str, before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Compute queue and compute ms of one request, and images of one execution, between two calls of `statistics`."""
    grown = {
        name: {key: value - before.get(name, {}).get(key, 0) for key, value in sums.items()}
        for name, sums in after.items()
    }
    worked = {name: sums for name, sums in grown.items() if sums["requests"] and sums["executions"]}
    # an ensemble computes nothing itself: what counts are the models that it is made of
    steps = {name: sums for name, sums in worked.items() if name != model} or worked
    return {
        "queue_ms": sum(sums["queue"] / sums["requests"] for sums in steps.values()) / 1e6,
        "compute_ms": sum(sums["compute"] / sums["requests"] for sums in steps.values()) / 1e6,
        "executed_batch": {name: sums["inferences"] / sums["executions"] for name, sums in steps.items()},
    }


class PeakMemory:
    """Watch a server's memory while the context is open; `mib` is the most that was seen."""

    def __init__(self, pid: int) -> None:
        self.mib = 0.0
        self._pid, self._over = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.mib = max(self.mib, memory_mib(self._pid))
