"""A server of one's own for a benchmark, and what its processes take."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from rice_lib.common.paths import find_root
from rice_lib.serving import server as life
from rice_lib.serving.environment import ServingEnvironment
from rice_lib.serving.repository import write_repository

MODEL = "rice"
"""The name that the benchmarks' servers serve a model by."""

READY_S = 180.0
SAMPLE_S = 0.2
MIB = 2**20


@contextmanager
def serving(model: Path, folder: Path, max_batch: int) -> Iterator[life.RunningServer]:
    """A server with a repository and a state folder of its own, on free ports, stopped at the end.

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
    """CPU time of a server since it started, user and system: of its own process (`server`), and of its models' by the
    models' names, all instances together; nothing where there is no `pid`."""
    spent: dict[str, float] = {}
    for name, process in _parts(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        spent[name] = spent.get(name, 0.0) + times.user + times.system
    return spent


def memory_mib(pid: int) -> float:
    """Resident memory of a server and its models' processes; memory that they share counts in each."""
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
    server = psutil.Process(pid)
    yield "server", server
    for child in server.children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.NoSuchProcess:
            continue
        if words and Path(words[0]).name == life.STUB:  # its first argument is <repository>/<model>/<version>/<file>
            yield Path(words[1]).parents[1].name, child


class PeakMemory:
    """Watches a server's memory while the context is open; `mib` is the most that was seen."""

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
