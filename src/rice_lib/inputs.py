"""From what a person names (files, folders, a list on stdin) to decoded pixels, in order, without holding
them all.

A thread walks the names and hands each file to a small pool that decodes it; both stop when two batches wait
to be told. Python's own types carry names: `str` with surrogate escapes where a name's bytes are no valid
UTF-8.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from rice_lib.preprocess import SUFFIXES, BadImageError, decode

DECODERS = 4
"""Threads that decode: Pillow frees the interpreter lock while it works, and a file is 1.5 ms of it."""

PATIENCE_S = 0.05
"""How long to wait for the next name before telling whoever collects a batch not to wait for it."""


@dataclass(frozen=True)
class DecodedInput:
    """One input: its pixels (uint8 `[224, 224, 3]`), or the reason why there are none."""

    path: str
    pixels: np.ndarray | None = None
    error: str | None = None


@dataclass(frozen=True)
class _Failed:
    """A name that stands for no file: a folder that cannot be read, or holds no images."""

    path: str
    error: str


def read_list(descriptor: int, separator: bytes = b"\n") -> Iterator[bytes]:
    """Names from an open file descriptor, as they come; empty ones are passed over.

    Reads the descriptor itself: a thread blocked in `sys.stdin` would hold its lock when the interpreter
    ends.
    """
    rest = b""
    while chunk := os.read(descriptor, 1 << 16):
        *names, rest = (rest + chunk).split(separator)
        yield from filter(None, names)
    if rest:
        yield rest


def expand(names: Iterable[bytes | str]) -> Iterator[str | _Failed]:
    """Files behind names, lazily: a file is itself, a folder is every image below it, sorted by name.

    In folders, links to folders are not followed (they may lead in a circle), and hidden files, other
    suffixes than
    `SUFFIXES` and what is no regular file are passed over.
    """
    for name in names:
        path = os.fsdecode(name)
        if os.path.isdir(path):
            yield from _walk(path)
        else:
            yield path


def _walk(folder: str) -> Iterator[str | _Failed]:
    unreadable: list[OSError] = []
    found = False
    for place, folders, files in os.walk(folder, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = os.path.join(place, name)
            if not name.startswith(".") and name.lower().endswith(SUFFIXES) and os.path.isfile(path):
                found = True
                yield path
    for error in unreadable:
        yield _Failed(str(error.filename), f"the folder cannot be read ({error.strerror})")
    if not found and not unreadable:
        yield _Failed(folder, f"the folder holds no images ({', '.join(SUFFIXES)})")


def decode_all(paths: Iterable[str | _Failed], batch_size: int) -> Iterator[DecodedInput | None]:
    """Decode files in the order given, at most two batches ahead of whoever takes them.

    Yields None where the next name is not there yet (a list that somebody types, or a slow `find`): tell what
    you
    have.
    """
    ahead: queue.Queue[Future[DecodedInput] | BaseException | None] = queue.Queue(maxsize=2 * batch_size)
    stopped = threading.Event()

    def walk() -> None:
        try:
            for path in paths:
                _put(ahead, pool.submit(_decode, path), stopped)
                if stopped.is_set():
                    return
            _put(ahead, None, stopped)
        except BaseException as error:  # handed over to the thread that takes the results, which raises it
            _put(ahead, error, stopped)

    with ThreadPoolExecutor(min(DECODERS, batch_size), thread_name_prefix="decode") as pool:
        # a daemon: one that is blocked on a terminal's stdin must not keep the process from ending
        threading.Thread(target=walk, name="walk", daemon=True).start()
        try:
            while True:
                try:
                    item = ahead.get(timeout=PATIENCE_S)
                except queue.Empty:
                    yield None
                    item = ahead.get()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item.result()
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _put(ahead: queue.Queue, item: object, stopped: threading.Event) -> None:
    """Put, unless the taking side has stopped."""
    while not stopped.is_set():
        try:
            ahead.put(item, timeout=0.1)
            return
        except queue.Full:
            continue


def _decode(path: str | _Failed) -> DecodedInput:
    if isinstance(path, _Failed):
        return DecodedInput(path.path, error=path.error)
    if "\0" in path:
        return DecodedInput(path, error="a name cannot hold a NUL (is this a list for --null?)")
    try:
        return DecodedInput(path, decode(path))
    except BadImageError as error:
        return DecodedInput(path, error=str(error))
