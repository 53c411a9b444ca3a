"""Records on stdout or in a file; a file survives an interruption, and a later run resumes it.

`out.csv` is written as `out.csv.partial` until every input is predicted, whatever its format: a line of JSON that
holds the run configuration (model, format, top-k, rejection), then one record an input and line, each handed to the
operating system at once. When all are there it is converted to the format asked for and takes its name, so a file
that has its name is complete. A run resumes only under the same configuration and inputs; a record cut off by a kill
is dropped.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from rice_lib.backends.open import split_engine
from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path, json_line, locked, sha256_file
from rice_lib.predict.inputs import Source, path_of
from rice_lib.predict.writers import csv_columns, flatten

if TYPE_CHECKING:
    from types import ModuleType

ROW_GROUP = 8192
"""Rows of a Parquet row group: what the conversion holds in memory (some 10 MB)."""


@dataclass(frozen=True)
class Configuration:
    """What two runs must have in common for one to resume the other."""

    model: str
    """The sha256 of its content, or the address of a served one."""
    format: str
    top_k: int
    reject: bool
    grains: Mapping[str, Any] | None = None
    """Of trays: what gives their scale, and which grains are broken."""


class Formatter(Protocol):
    """How records of images or of trays are written, see `rice_lib.predict.writers.Writer`."""

    labels: Sequence[str]
    header: str

    def as_dict(self, record: Any) -> dict[str, Any]:
        """Give a record as JSON can hold it, with its `path` and perhaps an `error`."""

    def text(self, values: Mapping[str, Any]) -> str:
        """Format what `as_dict` gave."""


def model_identity(spec: str | Path) -> str:
    """Identify a model: by its content's sha256 (a directory's: of its files), or by its address."""
    text = os.fspath(spec)
    if "://" in text:
        return text
    from hashlib import sha256

    engine, name = split_engine(text)
    path = Path(name)
    files = sorted(file for file in (path, *path.rglob("*")) if file.is_file())
    lines = "".join(f"{file.relative_to(path).as_posix()} {sha256_file(file)}\n" for file in files)
    return engine + sha256(lines.encode()).hexdigest()


class Output:
    """Where records go: an open stream."""

    def __init__(
        self, stream: TextIO, where: Path | str, writer: Formatter, head: str, line: Callable[[Mapping[str, Any]], str]
    ) -> None:
        """Write the `head`; each record is then written as `line` formats what `writer.as_dict` gives of it."""
        self._stream, self._where, self._writer, self._line = stream, where, writer, line
        self.count = 0
        """Records written, an interrupted run's included."""
        self.failed = 0
        """Those of them that are errors."""
        with _writing(where):
            stream.write(head)
            stream.flush()

    def remaining(self, sources: Iterator[Source]) -> Iterator[Source]:
        """Give the inputs that have no record yet."""
        return sources

    def write(self, record: Any) -> None:
        """Write one record; it is handed to the operating system before this returns.

        Raises `RiceError` where the disk is full or gone.
        """
        with _writing(self._where):
            values = self._writer.as_dict(record)
            self._stream.write(self._line(values))
            self._stream.flush()
        self.count += 1
        self.failed += "error" in values


class ResumableOutput(Output):
    """An output on the `.partial` file of the file asked for."""

    def __init__(self, output: Path, configuration: Configuration, writer: Formatter, resume: bool) -> None:
        """Begin a partial file, or open the one that is there to resume it.

        Raises `RiceError` where it cannot be written, is in the way, was written under another configuration, or
        another run is writing it.
        """
        self.output, self.partial, self._configuration = output, partial_file(output), configuration
        if self.partial.exists() and not resume:
            raise RiceError(f"{self.partial}: records of an interrupted run; add --resume, or delete it to start over")
        if not self.partial.parent.is_dir():
            raise RiceError(f"{output}: cannot be written (no folder {self.partial.parent})")
        with _writing(self.partial):
            stream = _open(self.partial, "a")
        self._lock = locked(self.partial, f"{self.partial}: another run is writing it")
        self._lock.__enter__()
        with self.partial.open("rb") as lines:
            complete = sum(len(line) for line in lines if line.endswith(b"\n"))  # only the last can lack its end
        stream.truncate(complete)
        self._fresh, self._resumed = complete == 0, 0
        head = json_line(asdict(configuration)) if self._fresh else ""
        super().__init__(stream, self.partial, writer, head, json_line)
        self._check_configuration()

    def _check_configuration(self) -> None:
        before = next(self._lines(), {})
        for name, value in asdict(self._configuration).items():
            if before.get(name) != value:
                option = name.replace("_", "-")
                was = "another model" if name == "model" else f"{option} {before.get(name)}, not {value}"
                raise RiceError(
                    f"{self.partial}: was begun with {was}; resume with the same, or delete it to start over"
                )

    def remaining(self, sources: Iterator[Source]) -> Iterator[Source]:
        """Give the inputs that the interrupted run has not predicted.

        Raises `RiceError` where its records are not those of the first of these inputs.
        """
        for number, record in enumerate(self._records(), 1):
            source = next(sources, None)
            if source is None or path_of(source) != record["path"]:
                now = "the inputs now end before it" if source is None else f"input {number} is now {path_of(source)!r}"
                raise RiceError(
                    f"{self.partial}: record {number} is of {record['path']!r}, but {now}; "
                    "resume with the same inputs, or delete it to start over"
                )
            self.count = self._resumed = number
            self.failed += "error" in record
        if self.count:
            print(f"resuming after the {self.count:,} records in {self.partial}", file=sys.stderr)
        return sources

    def finish(self) -> None:
        """Convert the partial file, and give the result its name."""
        with atomic_path(self.output) as temporary:
            if self._configuration.format == "parquet":
                self._to_parquet(temporary)
            else:
                self._to_text(temporary)
        self.partial.unlink()

    def stop(self, error: BaseException) -> None:
        """Keep what is done, and say how to resume; a partial file without a record is removed."""
        written = self.count > self._resumed
        if self._fresh and not written:
            self.partial.unlink()
        elif written or not isinstance(error, RiceError):
            total = f"the {self.count:,} records so far" if written else "the records so far"
            how = "to continue, give the same command with --resume"
            print(f"stopped: {total} are in {self.partial}; {how}", file=sys.stderr)

    def close(self) -> None:
        """Close the partial file; what a full disk did not take is lost."""
        with suppress(OSError):
            self._stream.close()
        self._lock.__exit__(None, None, None)

    def _records(self) -> Iterator[dict[str, Any]]:
        return itertools.islice(self._lines(), 1, None)

    def _lines(self) -> Iterator[dict[str, Any]]:
        """The configuration, and the records."""
        with self.partial.open(encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
            for number, line in enumerate(stream):
                try:
                    values = json.loads(line)
                    if not isinstance(values, dict) or (number and not isinstance(values["path"], str)):
                        raise ValueError
                except (ValueError, KeyError):
                    what = f"record {number}" if number else "its first line, the configuration,"
                    raise RiceError(f"{self.partial}: {what} cannot be read; delete it to start over") from None
                yield values

    def _to_text(self, file: Path) -> None:
        with _open(file, "w") as stream:
            stream.write(self._writer.header)
            stream.writelines(map(self._writer.text, self._records()))
            stream.flush()
            os.fsync(stream.fileno())

    def _to_parquet(self, file: Path) -> None:
        arrow, parquet = import_parquet()
        text, number = arrow.string(), arrow.float64()
        kinds = dict.fromkeys(("path", "label", "reason", "error"), text) | {"notes": arrow.list_(text)}
        schema = arrow.schema([(name, kinds.get(name, number)) for name in csv_columns(self._writer.labels)])
        records = self._records()
        with parquet.ParquetWriter(file, schema) as writer:
            while rows := [self._parquet_row(record) for record in itertools.islice(records, ROW_GROUP)]:
                writer.write_table(arrow.Table.from_pylist(rows, schema))

    def _parquet_row(self, record: dict[str, Any]) -> dict[str, Any]:
        # Arrow's text is UTF-8: bytes of a name that are not become \xNN
        path = os.fsencode(record["path"]).decode("utf-8", "backslashreplace")
        return {**flatten(record, self._writer.labels), "path": path, "notes": record.get("notes", [])}


@contextmanager
def open_output(
    output: Path | None, configuration: Configuration, writer: Formatter, resume: bool = False
) -> Iterator[Output]:
    """Open stdout, or a file that takes its name when every input has its record.

    Raises `RiceError` where the file cannot be written, or cannot be resumed.
    """
    if output is None:
        # names are bytes: what is no UTF-8 leaves as it came
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
        yield Output(sys.stdout, "stdout", writer, writer.header, writer.text)
        return
    resumable = ResumableOutput(output, configuration, writer, resume)
    try:
        yield resumable
        resumable.finish()
    except BaseException as error:
        resumable.stop(error)
        raise
    finally:
        resumable.close()


def partial_file(output: Path) -> Path:
    """Where the records are until all are there."""
    return output.with_name(output.name + ".partial")


def is_complete(output: Path) -> bool:
    """Whether a run finished this output: nothing of it is left to resume."""
    return output.is_file() and not partial_file(output).exists()


def has_errors(output: Path, form: str) -> bool:
    """Check whether a finished output holds the record of an input that failed."""
    if form == "parquet":
        errors = import_parquet()[1].read_table(output, columns=["error"])["error"]
        return errors.null_count < len(errors)
    with _open(output, "r") as stream:
        if form == "csv":
            return any(row.get("error") for row in csv.DictReader(stream))
        # of an image, of a tray; quotes within a text of JSON are escaped
        marks = ("error  ", ": error: ") if form == "table" else ('"error": "',)
        return any(mark in line for line in stream for mark in marks)


def import_parquet() -> tuple[ModuleType, ModuleType]:
    """Import `pyarrow` and `pyarrow.parquet`; raises `RiceError` where they are not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise RiceError("parquet needs pyarrow, not installed here: pip install 'rice-lib[bulk]'") from None
    return pyarrow, parquet


def _open(file: Path, mode: str) -> TextIO:
    return file.open(mode, encoding="utf-8", errors="surrogateescape", newline="\n")  # type: ignore[return-value]


@contextmanager
def _writing(path: Path | str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RiceError(f"{path}: cannot be written ({error.strerror})") from None
