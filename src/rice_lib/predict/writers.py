"""How records are written: a table for people, JSON lines and CSV for programs.

A writer formats records as dictionaries, so that those read back from an interrupted run's file are written as they
would have been the first time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rice_lib.common.errors import RiceError
from rice_lib.common.files import csv_line, json_line, printable
from rice_lib.contract.prediction import UNKNOWN
from rice_lib.contract.record import Record

FORMATS = ("table", "jsonl", "csv", "parquet")

_SUFFIXES = {"": "table", ".txt": "table"} | {f".{name}": name for name in FORMATS}


def format_of(asked: str | None, output: Path | None) -> str:
    """Choose the format asked for, else the one that the output's suffix names, else the table.

    Raises `RiceError` where the suffix names none.
    """
    suffix = output.suffix.lower() if output else ""
    if asked is None and suffix not in _SUFFIXES:
        raise RiceError(f"{output}: no format has the suffix {suffix}; name one with --format ({', '.join(FORMATS)})")
    return asked or _SUFFIXES[suffix]


def csv_columns(labels: Sequence[str]) -> list[str]:
    """Name the columns of a CSV or Parquet file."""
    return ["path", "label", "confidence", *labels, "reason", "notes", "error"]


class Writer:
    """Formats records as text."""

    def __init__(self, form: str, labels: Sequence[str], top_k: int) -> None:
        """Format as `form` (of `FORMATS`; Parquet has no text), with `top_k` scores."""
        self.labels = labels
        self._top_k = top_k
        self._width = max(map(len, (*labels, UNKNOWN, "error")))
        # as wide as the scores of other rows, so that all paths begin in one column
        self._scores_width = min(top_k, len(labels)) * (self._width + 10) - 2
        self._line = {"table": self._row, "csv": self._csv}.get(form, json_line)
        self.header = csv_line(csv_columns(labels)) if form == "csv" else ""
        """What stands before the first record."""

    def as_dict(self, record: Record) -> dict[str, Any]:
        """Give a record as JSON can hold it."""
        return record.as_dict(self._top_k)

    def text(self, values: Mapping[str, Any]) -> str:
        """Format what `as_dict` gave."""
        return self._line(values)

    def _row(self, record: Mapping[str, Any]) -> str:
        notes = f"  ({'; '.join(record['notes'])})" if "notes" in record else ""
        path = printable(record["path"]) + notes
        for label, why in (("error", "error"), (UNKNOWN, "reason")):
            if why in record:
                return f"{label:{self._scores_width}}  {path}: {record[why]}\n"
        scores = "  ".join(f"{name:{self._width}} {score:7.2%}" for name, score in record["scores"].items())
        return f"{scores}  {path}\n"

    def _csv(self, record: Mapping[str, Any]) -> str:
        return csv_line(flatten(record, self.labels).values())


def flatten(record: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """Lay a record out in the columns of `csv_columns`; what it lacks is None."""
    row = {**dict.fromkeys(csv_columns(labels)), **record, **record.get("scores", {})}
    row.pop("scores", None)
    row["notes"] = "; ".join(row["notes"] or ())
    return row
