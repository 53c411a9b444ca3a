"""Write files that are complete or not there: everything the project writes goes through `atomic_path`."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rice_lib.common.errors import RiceError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path for `path`, which takes its place on success and is removed on failure. Makes the folder.

    A link stays, and what it leads to is replaced. Raises `RiceError` where the file cannot be written.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.is_fifo() or target.is_char_device() or target.is_block_device():
            raise RiceError(f"{path}: cannot be written (not an ordinary file)")
        target.parent.mkdir(parents=True, exist_ok=True)
        # short, for the final name may be the longest that there can be; savers choose a format by the suffix
        temporary = target.parent / f".{os.urandom(6).hex()}.tmp{target.suffix}"
        try:
            yield temporary
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RiceError(f"{path}: cannot be written ({error.strerror or error})") from error


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a folder that replaces `path` on success and is removed on failure; a full disk is a `RiceError`."""
    import shutil

    fresh = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        shutil.rmtree(path, ignore_errors=True)
        fresh.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise  # of what is read, or from the network
        raise RiceError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def locked(path: Path, busy: str = "") -> Iterator[None]:
    """Lock a file or a folder for one process; the kernel unlocks it when the process ends, however that is.

    Where the system or the file system has no such locks, nothing is locked. Raises `RiceError`, of the text `busy`,
    where another process holds the lock; without `busy` it is waited for.
    """
    if os.name != "posix":
        yield
        return
    import fcntl

    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise RiceError(busy, 1) from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with `\\n` line ends, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


_encode = json.JSONEncoder(ensure_ascii=False).encode  # `json.dumps` makes an encoder for every call: twice the time


def json_line(record: Mapping[str, Any]) -> str:
    """Write a record as one line of JSON."""
    text = _encode(record)
    try:
        text.encode()
    except UnicodeEncodeError:
        # bytes of a name that are no UTF-8 stay recoverable: as \\udcXX escapes, which Python's json reads back
        text = json.dumps(record)
    return text + "\n"


def printable(path: str) -> str:
    """Give a name on one line of a terminal: control characters as escapes, so that none can move the cursor."""
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else repr(c)[1:-1] for c in path)


def csv_line(values: Iterable[object]) -> str:
    """Format one row of CSV, which ends in a newline; any file name survives, with a carriage return in it too.

    The writer quotes the characters of its own line end: with a newline for one, it would leave `\\r` bare.
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(values)
    return line.getvalue().removesuffix("\r\n") + "\n"


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[object]], comment: str = "") -> None:
    """Write a CSV file atomically: a first line `comment` where there is one, the header, the rows."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        stream.write(f"{comment}\n" if comment else "")
        stream.writelines(map(csv_line, (header, *rows)))


def sha256_file(path: Path) -> str:
    """Compute the hex sha256 of a file's bytes."""
    import hashlib  # not at the top, nor shutil and tempfile: `rice infer` starts without

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
