"""What a prediction is, and how it is written: a table for people, JSON lines and CSV for programs.

Every result is written as it comes. A file is written beside its final name as `<name>.partial` and renamed
when all is told, so that a whole file means a whole run, and an interrupted run keeps what it had under a
name that says so.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from rice_lib.errors import RiceError

if TYPE_CHECKING:
    from collections.abc import Callable

FORMATS = ("table", "jsonl", "csv")
DECIMALS = 6
"""Digits of a score that are written: float32 holds no more."""


@dataclass(frozen=True)
class Result:
    """One input told: a score in [0, 1] for every label; or the reason why it could not be."""

    path: str
    scores: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def label(self) -> str:
        """The likeliest variety."""
        return max(self.scores, key=self.scores.__getitem__)

    def best(self, top_k: int) -> dict[str, float]:
        """The `top_k` likeliest varieties with their scores, best first."""
        ranked = sorted(self.scores.items(), key=lambda pair: -pair[1])
        return {name: round(score, DECIMALS) for name, score in ranked[:top_k]}

    def record(self, top_k: int) -> dict[str, object]:
        """`{"path", "label", "confidence", "scores"}`, or `{"path", "error"}`."""
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        scores = self.best(top_k)
        return {"path": self.path, "label": self.label, "confidence": scores[self.label], "scores": scores}


def format_of(asked: str | None, output: Path | None) -> str:
    """The format asked for, else the one of the output's suffix, else the table."""
    if asked:
        return asked
    return {".jsonl": "jsonl", ".csv": "csv"}.get(output.suffix.lower() if output else "", "table")


class Sink:
    """Writes results to an open text stream, each at once."""

    def __init__(self, stream: TextIO, form: str, labels: tuple[str, ...], top_k: int) -> None:
        """Write as `form` (one of `FORMATS`), at most `top_k` scores a result; CSV begins with its header."""
        self._stream = stream
        self._labels = labels
        self._top_k = top_k
        self._width = max(map(len, (*labels, "error")))
        writers: dict[str, Callable[[Result], str]] = {
            "table": self._row,
            "jsonl": self._json,
            "csv": self._csv,
        }
        self._line = writers[form]
        self.count = 0
        if form == "csv":
            stream.write(_csv_line(["path", "label", "confidence", *labels, "error"]))

    def write(self, result: Result) -> None:
        """One line of the stream, handed to the operating system before this returns."""
        self._stream.write(self._line(result))
        self._stream.flush()
        self.count += 1

    def _row(self, result: Result) -> str:
        path = _printable(result.path)
        if result.error is not None:
            return f"{'error':{self._width}}          {path}: {result.error}\n"
        told = "  ".join(f"{name:{self._width}} {score:7.2%}" for name, score in result.best(self._top_k).items())
        return f"{told}  {path}\n"

    def _json(self, result: Result) -> str:
        import json

        text = json.dumps(result.record(self._top_k), ensure_ascii=False)
        # bytes of a name that are no UTF-8 stay recoverable: as \udcXX escapes, which Python's json reads
        # back
        return (text if _is_unicode(text) else json.dumps(result.record(self._top_k))) + "\n"

    def _csv(self, result: Result) -> str:
        if result.error is not None:
            return _csv_line([result.path, "", "", *("" for _ in self._labels), result.error])
        scores = result.best(self._top_k)
        return _csv_line(
            [result.path, result.label, scores[result.label], *(scores.get(n, "") for n in self._labels), ""]
        )


@contextmanager
def open_sink(output: Path | None, form: str, labels: tuple[str, ...], top_k: int) -> Iterator[Sink]:
    """A sink on stdout, or on a file that takes its name when everything is told.

    Raises:
        RiceError: the file cannot be written, or an interrupted run's `.partial` is in the way.
    """
    if output is None:
        # names are bytes: what is no UTF-8 leaves as it came
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
        yield Sink(sys.stdout, form, labels, top_k)
        return
    if output.exists() and not output.is_file():  # /dev/null, a named pipe: nothing to rename onto
        with _open(output, "w") as stream:
            yield Sink(stream, form, labels, top_k)
        return
    partial = output.with_name(output.name + ".partial")
    with _open(partial, "x") as stream:
        sink = Sink(stream, form, labels, top_k)
        try:
            yield sink
        except BaseException:
            if sink.count:
                print(f"stopped: the {sink.count} results so far are in {partial}", file=sys.stderr)
            else:
                partial.unlink()
            raise
    os.replace(partial, output)


def _open(path: Path, mode: Literal["w", "x"]) -> TextIO:
    try:
        return path.open(mode, encoding="utf-8", errors="surrogateescape", newline="\n")
    except FileExistsError:
        raise RiceError(f"{path}: results of an interrupted run; move or delete it first") from None
    except OSError as error:
        raise RiceError(f"{path}: cannot be written ({error.strerror})") from None


def _csv_line(values: list[object]) -> str:
    import csv

    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def _printable(path: str) -> str:
    """A name on one line of a terminal: control characters as escapes, so that none can move the cursor."""
    return (
        path
        if path.isprintable()
        else "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else repr(c)[1:-1] for c in path)
    )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
