"""From what a person names (files, folders, a list on stdin) to decoded pixels, in order, without holding them all.

A thread walks the names and hands each file to a small pool that decodes it; both stop when two batches wait
to be told. Python's own types carry names: `str` with surrogate escapes where a name's bytes are no valid
UTF-8.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rice_lib.contract.image_file import BadImageError, open_file, read_open
from rice_lib.contract.decode import LARGE_BYTES, SUFFIXES, decode_noting

if TYPE_CHECKING:
    from rice_lib.contract.record import Result

DECODERS = 4
"""Threads that decode: Pillow frees the interpreter lock while it works, and a file is 1.5 ms of it."""

PATIENCE_S = 0.05
"""How long to wait for the next name before telling whoever collects a batch not to wait for it."""

REMEMBERED = 1 << 14
"""Results kept for files of the same bytes; about 10 MB. In the Rice Image Dataset, equal files lie in one class's
folder of 15,000."""


@dataclass(frozen=True)
class DecodedInput:
    """One input: its pixels (uint8 `[224, 224, 3]`), or why there are none, or what was told of its bytes."""

    path: str
    pixels: np.ndarray | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    """What was done to the file that a person may want to know."""
    measures: np.ndarray | None = None
    """What a refusal looks at (`Decision.measure`), float32 `[measures]`, where it was asked for."""
    digest: bytes | None = None
    """Of the file's bytes, where equal files are looked for."""
    told: Result | None = None
    """The result of another file with the same bytes: nothing was decoded."""


@dataclass(frozen=True)
class Unreadable:
    """A name that stands for no file: a folder that cannot be read, or holds no images."""

    path: str
    error: str


Source = str | Unreadable
"""What `expand` gives: a file to be read, or why there is none."""


class Memory:
    """What was made of which bytes, so that no file is decoded and told twice; the latest `REMEMBERED` are kept.

    The threads that decode share one with whoever tells.
    """

    def __init__(self, size: int = REMEMBERED) -> None:
        from hashlib import blake2b

        self._hash = blake2b
        self._size = size
        self._lock = threading.Lock()
        self._told: OrderedDict[bytes, Result] = OrderedDict()
        # only what is on its way to the model: its size is bounded by how far the decoders may run ahead
        self._decoding: dict[bytes, Future[DecodedInput]] = {}

    def decode(self, path: str, data: bytes, decode: Callable[[], DecodedInput]) -> DecodedInput:
        """`decode()`, unless a file of the same bytes was told before or is being decoded: then the same for `path`."""
        digest = self._hash(data, digest_size=16).digest()
        with self._lock:
            told = self._recall(digest)
            first = self._decoding.get(digest)
            if mine := told is None and first is None:
                first = self._decoding[digest] = Future()
        if told is not None:
            return DecodedInput(path, digest=digest, told=told)
        assert first is not None
        if mine:
            try:
                first.set_result(replace(decode(), digest=digest))
            except BaseException as error:
                first.set_exception(error)
        return replace(first.result(), path=path)

    def recall(self, digest: bytes | None) -> Result | None:
        """The result of a file with these bytes, if one is remembered."""
        with self._lock:
            return None if digest is None else self._recall(digest)

    def keep(self, digest: bytes | None, result: Result) -> None:
        """Remember what was told of the bytes with this digest."""
        if digest is None:
            return
        with self._lock:
            self._decoding.pop(digest, None)
            self._told[digest] = result
            if len(self._told) > self._size:
                self._told.popitem(last=False)

    def _recall(self, digest: bytes) -> Result | None:
        told = self._told.get(digest)
        if told is not None:
            self._told.move_to_end(digest)
        return told


def read_list(
    descriptor: int, separator: bytes = b"\n", read: Callable[[int, int], bytes] = os.read
) -> Iterator[bytes]:
    """Names from an open file descriptor, as they come; empty ones are passed over.

    Reads the descriptor itself: a thread blocked in `sys.stdin` would hold its lock when the interpreter ends.
    """
    rest = b""
    while chunk := read(descriptor, 1 << 16):
        *names, rest = (rest + chunk).split(separator)
        yield from filter(None, names)
    if rest:
        yield rest


def peek_list(descriptor: int, start: int, separator: bytes = b"\n") -> Iterator[bytes]:
    """The names of `read_list` from an ordinary file's byte `start` on, not moving where the file is read next."""
    at = start

    def read(descriptor: int, size: int) -> bytes:
        nonlocal at
        chunk = os.pread(descriptor, size, at)
        at += len(chunk)
        return chunk

    return read_list(descriptor, separator, read)


def expand(names: Iterable[bytes | str]) -> Iterator[Source]:
    """Files behind names, lazily: a file is itself, a folder is every image below it, sorted by name.

    In folders, links to folders are not followed (they may lead in a circle), and hidden files, other suffixes than
    `SUFFIXES` and what is no regular file are passed over. Only the names of the folder at hand, and of the folders
    beside those on the way to it, are held.
    """
    for name in names:
        path = os.fsdecode(name)
        if os.path.isdir(path):
            yield from _walk(path)
        else:
            yield path


def path_of(source: Source) -> str:
    """The path as it was named or found."""
    return source if isinstance(source, str) else source.path


def count(names: Iterable[bytes | str]) -> Iterator[int]:
    """How many sources `expand` gives for each name in turn, holding no names.

    A folder that cannot be read counts as one input, as it becomes one record.
    """
    for name in names:
        path = os.fsdecode(name)
        yield max(1, _count_images(path)) if os.path.isdir(path) else 1


def _count_images(folder: str) -> int:
    found, below = 0, [folder]
    while below:
        try:
            with os.scandir(below.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if not entry.name.startswith("."):
                            below.append(entry.path)
                    else:
                        found += _is_image(entry.name) and entry.is_file()
        except OSError:
            found += 1
    return found


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def _walk(folder: str) -> Iterator[Source]:
    unreadable: list[OSError] = []
    found = False
    for place, folders, files in os.walk(folder, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(filter(_is_image, files)):
            path = os.path.join(place, name)
            if os.path.isfile(path):
                found = True
                yield path
    for error in unreadable:
        yield Unreadable(str(error.filename), f"the folder cannot be read ({error.strerror})")
    if not found and not unreadable:
        yield Unreadable(folder, f"the folder holds no images ({', '.join(SUFFIXES)})")


def decode_all(
    sources: Iterable[Source],
    batch_size: int,
    measure: Callable[[np.ndarray], np.ndarray] | None = None,
    memory: Memory | None = None,
) -> Iterator[DecodedInput | None]:
    """Decode files in the order given, at most two batches ahead of whoever takes them.

    Yields None where the next name is not there yet (a list that somebody types, or a slow `find`): tell what you
    have.

    Args:
        sources: what `expand` gives.
        batch_size: images that whoever takes them tells at once.
        measure: what to work out of an image's pixels beside them (`Decision.measure`).
        memory: with one, files of the same bytes are decoded once.
    """
    ahead: queue.Queue[Future[DecodedInput] | BaseException | None] = queue.Queue(maxsize=2 * batch_size)
    stopped = threading.Event()

    def walk() -> None:
        try:
            for source in sources:
                _put(ahead, pool.submit(_read, source, measure, memory), stopped)
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


def _read(source: Source, measure: Callable[[np.ndarray], np.ndarray] | None, memory: Memory | None) -> DecodedInput:
    if isinstance(source, Unreadable):
        return DecodedInput(source.path, error=source.error)
    if "\0" in source:
        return DecodedInput(source, error="a name cannot hold a NUL (is this a list for --null?)")
    if memory is None:
        return _decode(source, source, measure)
    try:
        data = _read_to_compare(source)
    except BadImageError as error:
        return DecodedInput(source, error=str(error))
    if data is None:
        return _decode(source, source, measure)
    return memory.decode(source, data, lambda: _decode(source, data, measure))


def _read_to_compare(path: str) -> bytes | None:
    """A file's bytes; None where it is so large that only the decoder may read it, one file at a time."""
    file, length = open_file(path)
    with file:
        if length > LARGE_BYTES:
            return None
        return read_open(file, length)


def _decode(path: str, content: str | bytes, measure: Callable[[np.ndarray], np.ndarray] | None) -> DecodedInput:
    try:
        pixels, notes = decode_noting(content)
    except BadImageError as error:
        return DecodedInput(path, error=str(error))
    return DecodedInput(path, pixels, notes=notes, measures=None if measure is None else measure(pixels))
