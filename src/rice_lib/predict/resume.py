"""Results on stdout or in a file; in a file they are kept through interruptions, and a later run goes on with them.

`told.csv` is written as `told.csv.partial`, one result after the other, each handed to the operating system at once,
and takes its name when everything is told: a whole file means a whole run. Beside it `told.csv.partial.json` says on
what terms the run tells (model, format, top-k, refusal), for a resumed run must tell on the same. What the process
was killed in the middle of writing is cut off when a run goes on. Parquet cannot be written that way: its partial
file holds JSON lines, which are converted at the end.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from rice_lib.common.errors import RiceError
from rice_lib.predict.inputs import Source, path_of
from rice_lib.contract.record import Result, Writer, csv_columns

if TYPE_CHECKING:
    from types import ModuleType

ROW_GROUP = 8192
"""Rows of a Parquet row group: what the conversion holds in memory (some 10 MB)."""


@dataclass(frozen=True)
class Terms:
    """What two runs must have in common for one to go on with the other's results."""

    model: str
    """The sha256 of its content, or the address of a served one."""
    format: str
    top_k: int
    refusal: bool


def model_identity(spec: str | Path) -> str:
    """What makes a model the same one: its content's sha256 (a directory's: of its files), or its address."""
    text = os.fspath(spec)
    if "://" in text:
        return text
    from hashlib import sha256

    from rice_lib.common.files import sha256_file

    path = Path(text)
    if path.is_file():
        return sha256_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = "".join(f"{file.relative_to(path).as_posix()} {sha256_file(file)}\n" for file in files)
    return sha256(lines.encode()).hexdigest()


class Sink:
    """Where results go: an open stream."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.told = 0
        """Results there are, an interrupted run's included."""
        self.failed = 0
        """Those of them that are errors."""

    def remaining(self, sources: Iterator[Source]) -> Iterator[Source]:
        """The inputs that are not told yet."""
        return sources

    def write(self, result: Result) -> None:
        """Write one result."""
        self._writer.write(result)
        self.told += 1
        self.failed += result.error is not None


class Journal(Sink):
    """A sink on the `.partial` file of an output."""

    def __init__(self, output: Path, terms: Terms, labels: Sequence[str], resume: bool) -> None:
        """Begin a partial file, or open the one that is there to go on with it.

        Raises:
            RiceError: it cannot be written, is in the way, was written on other terms, or another run writes it.
        """
        self.output = output
        self.partial = partial_file(output)
        self._terms_file = self.partial.with_name(self.partial.name + ".json")
        self._labels = labels
        self._text_form = "jsonl" if terms.format == "parquet" else terms.format
        self._to_parquet = terms.format == "parquet"
        self.written = 0
        """Results of this run alone."""
        self._fresh = not (resume and self.partial.exists())
        if self._fresh:
            self._stream = self._begin(terms)
        else:
            self._check_terms(terms)
            self._stream = self._go_on()
        super().__init__(Writer(self._stream, self._text_form, labels, terms.top_k))
        if self._stream.tell() == 0:
            self._writer.begin()

    def _begin(self, terms: Terms) -> TextIO:
        if self.partial.exists():
            raise RiceError(
                f"{self.partial}: results of an interrupted run; go on with --resume, or delete it to begin anew"
            )
        if not self.partial.parent.is_dir():
            raise RiceError(f"{self.output}: cannot be written (no folder {self.partial.parent})")
        from rice_lib.common.files import write_json  # imports hashlib, whose OpenSSL one photograph need not wait for

        with _writing(self.partial):
            # the terms first: a partial file without them could not be gone on with
            write_json(self._terms_file, asdict(terms))
            stream = self.partial.open("x", encoding="utf-8", errors="surrogateescape", newline="\n")
        _lock(stream, self.partial)
        return stream

    def _check_terms(self, terms: Terms) -> None:
        try:
            before = json.loads(self._terms_file.read_bytes())
        except (OSError, ValueError):
            raise RiceError(
                f"{self.partial}: {self._terms_file.name} beside it is missing; delete it to begin anew"
            ) from None
        for name, value in asdict(terms).items():
            if before.get(name) != value:
                was = (
                    "another model" if name == "model" else f"{name.replace('_', '-')} {before.get(name)}, not {value}"
                )
                raise RiceError(
                    f"{self.partial}: was told with {was}; resume with the same, or delete it to begin anew"
                )

    def _go_on(self) -> TextIO:
        with _writing(self.partial):
            stream = self.partial.open("r+", encoding="utf-8", errors="surrogateescape", newline="\n")
        _lock(stream, self.partial)
        with self.partial.open("rb") as whole:
            stream.truncate(whole_records(whole, quoted=self._text_form == "csv"))
        stream.seek(0, os.SEEK_END)
        return stream

    def remaining(self, sources: Iterator[Source]) -> Iterator[Source]:
        """The inputs that the interrupted run did not tell.

        Raises:
            RiceError: what it told are not the first of these inputs.
        """
        self._stream.flush()
        for number, record in enumerate(self._records(), 1):
            source = next(sources, None)
            if source is None or path_of(source) != record["path"]:
                now = "the inputs now end before it" if source is None else f"input {number} is now {path_of(source)!r}"
                raise RiceError(
                    f"{self.partial}: record {number} is of {record['path']!r}, but {now}; "
                    "resume with the same inputs, or delete it to begin anew"
                )
            self.told += 1
            self.failed += bool(record.get("error"))
        if self.told:
            print(f"going on after the {self.told} results in {self.partial}", file=sys.stderr)
        return sources

    def write(self, result: Result) -> None:
        """Write one result; raises `RiceError` where the disk is full or gone."""
        with _writing(self.partial):
            super().write(result)
        self.written += 1

    def finish(self) -> None:
        """Give the whole output its name."""
        with _writing(self.output):
            os.fsync(self._stream.fileno())
            if self._to_parquet:
                self._convert()
                self.partial.unlink()
            else:
                os.replace(self.partial, self.output)
            self._terms_file.unlink(missing_ok=True)

    def stop(self, error: BaseException) -> None:
        """Keep what is done, and say how to go on; a partial file with nothing in it is removed."""
        if self._fresh and not self.written:
            self.partial.unlink()
            self._terms_file.unlink(missing_ok=True)
        elif self.written or not isinstance(error, RiceError):
            total = f"the {self.told} results so far" if self.written else "the results so far"
            print(
                f"stopped: {total} are in {self.partial}; to go on, give the same command with --resume",
                file=sys.stderr,
            )

    def close(self) -> None:
        """Close the partial file; what a full disk did not take is lost."""
        with suppress(OSError):
            self._stream.close()

    def _records(self) -> Iterator[dict[str, Any]]:
        read = 0
        try:
            with self.partial.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
                for record in read_records(stream, self._text_form, self._labels):
                    yield record
                    read += 1
        except ValueError:
            raise RiceError(f"{self.partial}: record {read + 1} cannot be read; delete it to begin anew") from None

    def _convert(self) -> None:
        arrow, parquet = import_parquet()
        text, number = arrow.string(), arrow.float64()
        kinds = dict.fromkeys(("path", "label", "reason", "error"), text) | {"notes": arrow.list_(text)}
        schema = arrow.schema([(name, kinds.get(name, number)) for name in csv_columns(self._labels)])
        temporary = self.partial.with_name(self.partial.name + ".tmp")
        records = self._records()
        with parquet.ParquetWriter(temporary, schema) as writer:
            while rows := [_parquet_row(record) for record in itertools.islice(records, ROW_GROUP)]:
                writer.write_table(arrow.Table.from_pylist(rows, schema))
        os.replace(temporary, self.output)


@contextmanager
def open_sink(output: Path | None, terms: Terms, labels: Sequence[str], resume: bool = False) -> Iterator[Sink]:
    """A sink on stdout, or on a file that takes its name when everything is told.

    Raises:
        RiceError: the file cannot be written, or cannot be gone on with.
    """
    if output is None:
        # names are bytes: what is no UTF-8 leaves as it came
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
        yield _plain(sys.stdout, terms, labels)
        return
    if output.exists() and not output.is_file():  # /dev/null, a named pipe: nothing to rename onto
        if terms.format == "parquet" or resume:
            raise RiceError(f"{output}: {'--resume' if resume else 'parquet'} needs an ordinary file")
        with _writing(output), output.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
            yield _plain(stream, terms, labels)
        return
    journal = Journal(output, terms, labels, resume)
    try:
        yield journal
        journal.finish()
    except BaseException as error:
        journal.stop(error)
        raise
    finally:
        journal.close()


def partial_file(output: Path) -> Path:
    """Where the results are until all are told."""
    return output.with_name(output.name + ".partial")


def is_finished(output: Path) -> bool:
    """Whether a run told everything there is to this output: nothing of it is left to go on with."""
    return output.is_file() and not partial_file(output).exists()


def whole_records(stream: BinaryIO, quoted: bool) -> int:
    """Bytes at the beginning of `stream` that are whole records; in CSV (`quoted`) a quoted line end ends none."""
    at = end = 0
    inside = False
    for line in stream:
        at += len(line)
        # a quote within quotes is doubled, so the count's parity alone tells inside from outside (RFC 4180, 2.7)
        inside ^= quoted and line.count(b'"') % 2 == 1
        if line.endswith(b"\n") and not inside:
            end = at
    return end


def read_records(stream: TextIO, form: str, labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Records of an open jsonl or csv file (its `newline` is ""); raises `ValueError` at a damaged one."""
    if form == "csv":
        import csv

        reader = csv.DictReader(stream)
        if reader.fieldnames is not None and list(reader.fieldnames) != csv_columns(labels):
            raise ValueError("other columns")
        yield from reader
        return
    for line in stream:
        record = json.loads(line)
        if not isinstance(record, dict) or not isinstance(record.get("path"), str):
            raise ValueError("not a record")
        yield record


def import_parquet() -> tuple[ModuleType, ModuleType]:
    """The modules `pyarrow` and `pyarrow.parquet`; raises `RiceError` where they are not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise RiceError("parquet needs pyarrow, not installed here: pip install 'rice-lib[bulk]'") from None
    return pyarrow, parquet


def _parquet_row(record: dict[str, Any]) -> dict[str, Any]:
    # Arrow's text is UTF-8: bytes of a name that are not become \xNN
    path = os.fsencode(record["path"]).decode("utf-8", "backslashreplace")
    return {"notes": [], **record, **record.get("scores", {}), "path": path}


def _plain(stream: TextIO, terms: Terms, labels: Sequence[str]) -> Sink:
    writer = Writer(stream, terms.format, labels, terms.top_k)
    writer.begin()
    return Sink(writer)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RiceError(f"{path}: cannot be written ({error.strerror})") from None


def _lock(stream: TextIO, path: Path) -> None:
    """Hold the file against a second run; the lock goes with the process, however that ends."""
    if os.name != "posix":
        return
    import fcntl

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        raise RiceError(f"{path}: another run is writing it") from None
    except OSError:
        pass  # a file system without locks: then two runs at once are the user's own affair
