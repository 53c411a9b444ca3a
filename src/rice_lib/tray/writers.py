"""A tray's record as text: a table for people, a row a grain for programs.

JSON lines hold one object a grain, which has `grain`, and after those of a tray one that has `summary`: `jq
'select(.grain)'` and `jq 'select(.summary)'` part them. CSV holds the grains alone. A tray that cannot be read is one
record with `path` and `error`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rice_lib.common.files import csv_line, json_line, printable
from rice_lib.tray.record import TrayRecord
from rice_lib.tray.sheet import LIMITS

_SIZES = ("x", "y", "length_px", "width_px", "length_mm", "width_mm", "angle", "broken", "colour")

MAX_LISTED = 20  # rejected grains of one reason whose numbers a table lists: of more it gives the count


class TrayWriter:
    """Formats tray records as `table`, `jsonl` or `csv`: a `rice_lib.predict.resume.Writer`."""

    def __init__(self, form: str, labels: Sequence[str], top_k: int) -> None:
        """Format with scores of the `top_k` likeliest varieties; a table has none."""
        self.labels = labels
        self._top_k = top_k
        self._columns = ["path", "grain", *_SIZES, "label", "confidence", *labels, "reason", "error"]
        self._text = {"table": _table, "jsonl": self._jsonl, "csv": self._csv}[form]
        self.header = csv_line(self._columns) if form == "csv" else ""
        """What stands before the first record."""

    def as_dict(self, record: TrayRecord) -> dict[str, Any]:
        """Give a tray's path and text, and the error where there is one."""
        error = {} if record.error is None else {"error": record.error}
        return {"path": record.path, "text": self._text(record), **error}

    def text(self, values: Mapping[str, Any]) -> str:
        """Give the text that `as_dict` put there."""
        return str(values["text"])

    def _jsonl(self, record: TrayRecord) -> str:
        if record.counts is None:
            return json_line({"path": record.path, "error": record.error})
        rows = [*record.grain_dicts(self._top_k), {"path": record.path, "summary": record.summary()}]
        return "".join(map(json_line, rows))

    def _csv(self, record: TrayRecord) -> str:
        rows = [row | row["scores"] for row in record.grain_dicts(self._top_k)]
        if record.counts is None:
            rows = [{"path": record.path, "error": record.error}]
        return "".join(csv_line(row.get(name) for name in self._columns) for row in rows)


def _table(record: TrayRecord) -> str:
    path = printable(record.path)
    if record.counts is None or record.sheet is None:
        return f"{path}: error: {record.error}\n"
    width = max(len(own.variety) for own in record.counts.shares)
    lines = [f"{path}: {record.counts}", f"  {'variety':{width}}  grains    share   95 % interval"]
    lines += [
        f"  {own.variety:{width}}  {own.count:6}  {own.share:7.1%}   {own.low:.1%} to {own.high:.1%}"
        for own in record.counts.shares
    ]
    rejected: defaultdict[str, list[str]] = defaultdict(list)
    for number, prediction in enumerate(record.predictions, start=1):
        if prediction.reason is not None:
            rejected[prediction.reason].append(str(number))
    for reason, numbers in rejected.items():
        listed = ", ".join(numbers) if len(numbers) <= MAX_LISTED else f"{len(numbers)} grains"
        lines.append(f"  unknown: {reason}: {listed}")
    columns = [max(map(len, column)) for column in zip(*record.sheet.rows(), strict=True)]
    for name, value, interval, remark in record.sheet.rows():
        row = f"  {name:{columns[0]}}  {value:>{columns[1]}}   {interval:{columns[2]}}   {remark}"
        lines.append(row.rstrip())
    return "\n".join([*lines, f"  {LIMITS}"]) + "\n"
