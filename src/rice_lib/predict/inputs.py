"""From what a person names (files, folders, a list on stdin) to decoded pixels, in order, without holding them all.

A thread walks the names and hands each file to a small pool that decodes it; both wait while a batch is ready.
Names are `str`, with surrogate escapes where their bytes are no valid UTF-8.
"""

from __future__ import annotations

import codecs
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TypeVar

import numpy as np

from rice_lib.common.errors import RiceError
from rice_lib.common.machine import cores
from rice_lib.contract.decode import decode_with_notes, is_photograph
from rice_lib.contract.image_file import SUFFIXES, BadImageError

T = TypeVar("T")

PATIENCE_S = 0.05
"""How long to wait for the next name before the caller gets None in its place."""


@dataclass(frozen=True)
class DecodedInput:
    """One input: its pixels, or why there are none."""

    path: str
    pixels: np.ndarray | None = None
    """uint8 `[224, 224, 3]`."""
    error: str | None = None
    notes: tuple[str, ...] = ()
    """What was done to the file that a person may want to know."""


@dataclass(frozen=True)
class Unreadable:
    """A name that stands for no file: a folder that cannot be read, or holds no images."""

    path: str
    error: str


Source = str | Unreadable
"""What `expand` gives: a file to be read, or why there is none."""


def read_list(descriptor: int, separator: bytes = b"\n") -> Iterator[bytes]:
    """Read names from an open file descriptor, as they come; empty ones are skipped.

    A list made on Windows is read, too: UTF-16 as PowerShell writes it, and lines that end in a carriage return.
    Reads the descriptor itself: a thread blocked in `sys.stdin` would hold its lock when the interpreter ends.
    """
    chunks: Iterator[bytes] = iter(partial(os.read, descriptor, 1 << 16), b"")
    first = next(chunks, b"").removeprefix(codecs.BOM_UTF8)
    chunks = chain([first], chunks)
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        chunks = map(os.fsencode, codecs.iterdecode(chunks, "utf-16", errors="replace"))
    rest = b""
    for chunk in chunks:
        *names, rest = (rest + chunk).split(separator)
        yield from filter(None, map(_without_return, names))
    if rest:
        yield _without_return(rest)


def _without_return(name: bytes) -> bytes:
    return name[:-1] if name.endswith(b"\r") and not os.path.lexists(name) else name


def read_names(inputs: Iterable[str], null: bool) -> Iterator[bytes | str]:
    """Give the names on a command line, `-` replaced by the list on stdin, separated by newline or NUL.

    Raises `RiceError` where stdin cannot be read.
    """
    for name in inputs:
        if name == "-":
            try:
                yield from read_list(sys.stdin.fileno(), b"\0" if null else b"\n")
            except OSError as error:
                raise RiceError(f"the list on stdin cannot be read ({error.strerror})") from None
        else:
            yield name


def expand(names: Iterable[bytes | str]) -> Iterator[Source]:
    """Find the files behind names, lazily: a file is itself, a folder is every image below it, sorted by name.

    In folders, links to folders are not followed (they may lead in a circle), and what `is_photograph` leaves out is
    skipped. Only the names of the folder at hand, and of the folders beside those on the way to it, are held.
    """
    for name in names:
        path = os.fsdecode(name)
        if os.path.isdir(path):
            yield from _walk(path)
        else:
            yield path


def path_of(source: Source) -> str:
    """Give the path as it was named or found."""
    return source if isinstance(source, str) else source.path


def _walk(folder: str) -> Iterator[Source]:
    unreadable: list[OSError] = []
    found = False
    for place, folders, files in os.walk(folder, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(filter(is_photograph, files)):
            found = True
            yield os.path.join(place, name)
    for error in unreadable:
        yield Unreadable(str(error.filename), f"the folder cannot be read ({error.strerror})")
    if not found and not unreadable:
        yield Unreadable(folder, f"the folder holds no images ({', '.join(SUFFIXES)})")


def decode_all(sources: Iterable[Source], batch_size: int) -> Iterator[DecodedInput | None]:
    """Decode files in the order given, at most a batch ahead of the caller; see `read_ahead` for None.

    Pillow frees the interpreter lock while it works: one thread a core. More threads, or a second batch ahead, only
    drive each other's pixels out of the caches (3.05 ms of a core's time an image in place of 2.9).

    Args:
        sources: what `expand` gives.
        batch_size: images that the caller predicts at once.
    """
    threads = min(max(2, cores()), batch_size)
    return read_ahead(sources, decode_source, threads, batch_size)


def read_ahead(sources: Iterable[Source], read: Callable[[Source], T], threads: int, ahead: int) -> Iterator[T | None]:
    """Apply `read` to sources in a few threads, and give the results in order; see `walk_ahead` for the rest."""
    with ThreadPoolExecutor(threads, thread_name_prefix="read") as pool:
        try:
            for future in walk_ahead((pool.submit(read, source) for source in sources), ahead):
                yield None if future is None else future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def walk_ahead(items: Iterable[T], ahead: int) -> Iterator[T | None]:
    """Take items in a thread, at most `ahead` before the caller.

    Yields None where the next one is not there yet (a list that somebody types, or a slow `find`): use what you have.
    """
    ready: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()
    room, stopped = threading.Semaphore(ahead), threading.Event()

    def walk() -> None:
        try:
            room.acquire()
            for item in items:
                ready.put((item,))
                room.acquire()
                if stopped.is_set():
                    return
            ready.put(None)
        except BaseException as error:  # raised again by the thread that takes the items
            ready.put(error)

    # a daemon: one that is blocked on a terminal's stdin must not keep the process from ending
    threading.Thread(target=walk, name="walk", daemon=True).start()
    try:
        while True:
            try:
                found = ready.get(timeout=PATIENCE_S)
            except queue.Empty:
                yield None
                found = ready.get()
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            room.release()
            yield found[0]
    finally:
        stopped.set()
        room.release()  # wakes the walker


def decode_source(source: Source) -> DecodedInput:
    """Decode one input."""
    if isinstance(source, Unreadable):
        return DecodedInput(source.path, error=source.error)
    if "\0" in source:
        return DecodedInput(source, error="a name cannot hold a NUL (is this a list for --null?)")
    try:
        pixels, notes = decode_with_notes(source)
    except BadImageError as error:
        return DecodedInput(source, error=str(error))
    return DecodedInput(source, pixels, notes=notes)
