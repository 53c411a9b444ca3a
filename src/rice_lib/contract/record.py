"""What a prediction is, and how it is written: a table for people, JSON lines and CSV for programs.

A `Writer` turns results into text, each at once; `rice_lib.predict.resume` keeps that text in files that survive an
interruption.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rice_lib.contract.decision import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable

FORMATS = ("table", "jsonl", "csv", "parquet")
DECIMALS = 6
"""Digits of a score that are written: float32 holds no more."""

_SUFFIXES = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True, slots=True)
class Result:
    """One input: told (a score in [0, 1] for every label), told to be `unknown` with the reason, or failed."""

    path: str
    scores: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    """Why the image is refused; the scores are then what the model would have said."""
    notes: tuple[str, ...] = ()
    """What was done to the file that a person may want to know (the first of several frames was taken)."""
    error: str | None = None
    """Why the file could not be read; there are no scores."""

    @property
    def label(self) -> str:
        """The likeliest variety, or `unknown`."""
        return UNKNOWN if self.reason is not None else max(self.scores, key=self.scores.__getitem__)

    def best(self, top_k: int) -> dict[str, float]:
        """The `top_k` likeliest varieties with their scores, best first."""
        ranked = sorted(self.scores.items(), key=lambda pair: -pair[1])
        return {name: round(score, DECIMALS) for name, score in ranked[:top_k]}

    def record(self, top_k: int) -> dict[str, Any]:
        """`{"path", "label", "confidence", "scores"}`, or `{"path", "error"}`.

        A refused image has the label `unknown`, no confidence (null), and a `reason`; `notes` are there where there
        are any.
        """
        notes = {"notes": list(self.notes)} if self.notes else {}
        if self.error is not None:
            return {"path": self.path, "error": self.error, **notes}
        scores = self.best(top_k)
        told: dict[str, Any] = {"path": self.path, "label": self.label, "confidence": scores.get(self.label)}
        if self.reason is not None:
            told["reason"] = self.reason
        return {**told, "scores": scores, **notes}


def format_of(asked: str | None, output: Path | None) -> str:
    """The format asked for, else the one of the output's suffix, else the table."""
    return asked or _SUFFIXES.get(output.suffix.lower() if output else "", "table")


def csv_columns(labels: Sequence[str]) -> list[str]:
    """The header of a CSV file, and the columns of a Parquet file."""
    return ["path", "label", "confidence", *labels, "reason", "notes", "error"]


class Writer:
    """Writes results to an open text stream, each at once."""

    def __init__(self, stream: TextIO, form: str, labels: Sequence[str], top_k: int) -> None:
        """Write as `form` (table, jsonl or csv), at most `top_k` scores a result."""
        self._stream = stream
        self._labels = labels
        self._top_k = min(top_k, len(labels))
        self._width = max(map(len, (*labels, UNKNOWN, "error")))
        lines: dict[str, Callable[[Result], str]] = {"table": self._row, "jsonl": self._json, "csv": self._csv}
        self._line = lines[form]
        self._form = form

    def begin(self) -> None:
        """What stands before the first result: the header of CSV."""
        if self._form == "csv":
            self._stream.write(_csv_line(csv_columns(self._labels)))

    def write(self, result: Result) -> None:
        """One record of the stream, handed to the operating system before this returns."""
        self._stream.write(self._line(result))
        self._stream.flush()

    def _row(self, result: Result) -> str:
        path = _printable(result.path) + (f"  ({'; '.join(result.notes)})" if result.notes else "")
        if result.error is not None or result.reason is not None:
            label, why = ("error", result.error) if result.error is not None else (UNKNOWN, result.reason)
            # as wide as the scores of other rows, so that all paths begin in one column
            return f"{label:{self._top_k * (self._width + 10) - 2}}  {path}: {why}\n"
        told = "  ".join(f"{name:{self._width}} {score:7.2%}" for name, score in result.best(self._top_k).items())
        return f"{told}  {path}\n"

    def _json(self, result: Result) -> str:
        record = result.record(self._top_k)
        text = json.dumps(record, ensure_ascii=False)
        # bytes of a name that are no UTF-8 stay recoverable: as \udcXX escapes, which Python's json reads back
        return (text if _is_unicode(text) else json.dumps(record)) + "\n"

    def _csv(self, result: Result) -> str:
        record = result.record(self._top_k)
        scores = record.get("scores", {})
        return _csv_line(
            [
                result.path,
                record.get("label", ""),
                record.get("confidence", ""),
                *(scores.get(name, "") for name in self._labels),
                record.get("reason", ""),
                "; ".join(result.notes),
                record.get("error", ""),
            ]
        )


def _csv_line(values: Sequence[object]) -> str:
    import csv

    line = io.StringIO()
    # the writer quotes the characters of its own line end: with "\n" for one, it would leave a name's "\r" bare
    csv.writer(line, lineterminator="\r\n").writerow(values)
    return line.getvalue().removesuffix("\r\n") + "\n"


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
