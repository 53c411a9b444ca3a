"""A tray's answer as text: a table for people, a row a grain for programs.

JSON lines hold one object a grain, which has `grain`, and after those of a tray one that has `summary`: `jq
'select(.grain)'` and `jq 'select(.summary)'` part them. CSV holds the grains alone. A tray that cannot be read is one
record with `path` and `error`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rice_lib.contract.record import DECIMALS
from rice_lib.tray.count import Count
from rice_lib.tray.find import Grain
from rice_lib.tray.tell import Told


@dataclass(frozen=True)
class Answer:
    """Everything about one tray: its grains with what was told of each, and the count; or why there is none."""

    path: str
    grains: Sequence[Grain] = ()
    told: Sequence[Told] = ()
    count: Count | None = None
    mm_per_pixel: float | None = None
    error: str | None = None


class Writer:
    """Turns answers into text of one form: `table`, `jsonl` or `csv`."""

    def __init__(self, form: str, labels: Sequence[str], top_k: int | None) -> None:
        """Write with scores of the `top_k` likeliest varieties, all by default; a table has none."""
        self._labels = labels
        self._top_k = top_k or len(labels)
        self.text = {"table": _table, "jsonl": self._jsonl, "csv": self._csv}[form]
        self.header = _csv_line(self._columns()) if form == "csv" else ""

    def _columns(self) -> list[str]:
        sizes = ["x", "y", "length_px", "width_px", "length_mm", "width_mm", "angle"]
        return ["path", "grain", *sizes, "label", "confidence", *self._labels, "reason", "error"]

    def _jsonl(self, answer: Answer) -> str:
        if answer.count is None:
            return _json({"path": answer.path, "error": answer.error})
        lines = [_json(self._record(answer, number)) for number in range(len(answer.grains))]
        return "".join(lines) + _json({"path": answer.path, "summary": _summary(answer, answer.count)})

    def _csv(self, answer: Answer) -> str:
        columns = self._columns()
        if answer.count is None:
            return _csv_line([{"path": answer.path, "error": answer.error}.get(name, "") for name in columns])
        lines = []
        for number in range(len(answer.grains)):
            record = self._record(answer, number)
            values = {**record, **record["scores"]}
            lines.append(_csv_line(["" if values.get(name) is None else values[name] for name in columns]))
        return "".join(lines)

    def _record(self, answer: Answer, number: int) -> dict[str, Any]:
        """One grain; lengths in pixels and, where the scale is known, in millimetres, the angle in degrees."""
        grain, told = answer.grains[number], answer.told[number]
        best = sorted(told.scores.items(), key=lambda pair: -pair[1])[: self._top_k]
        millimetres = {}
        if answer.mm_per_pixel is not None:
            millimetres = {
                "length_mm": round(grain.length * answer.mm_per_pixel, 3),
                "width_mm": round(grain.width * answer.mm_per_pixel, 3),
            }
        return {
            "path": answer.path,
            "grain": number + 1,
            "x": round(grain.centre[0], 1),
            "y": round(grain.centre[1], 1),
            "length_px": round(grain.length, 1),
            "width_px": round(grain.width, 1),
            **millimetres,
            "angle": round(grain.angle, 1),
            "label": told.label,
            "confidence": None if told.confidence is None else round(told.confidence, DECIMALS),
            **({} if told.reason is None else {"reason": told.reason}),
            "scores": {name: round(score, DECIMALS) for name, score in best},
        }


def _summary(answer: Answer, count: Count) -> dict[str, Any]:
    shares = {
        own.variety: {
            "count": own.count,
            "share": round(own.share, 4),
            "interval": [round(own.low, 4), round(own.high, 4)],
        }
        for own in count.shares
    }
    return {
        "found": count.told + count.unknown,
        "told": count.told,
        "unknown": count.unknown,
        "cut": count.cut,
        "mm_per_pixel": answer.mm_per_pixel,
        "varieties": shares,
    }


def headline(count: Count) -> str:
    """One line: how many grains, and what was not told."""
    rest = [f"{count.unknown} unknown"] * bool(count.unknown) + [f"{count.cut} cut by the border"] * bool(count.cut)
    return ", ".join([f"{count.told} grain{'s' * (count.told != 1)} told", *rest])


def _table(answer: Answer) -> str:
    name = answer.path if answer.path.isprintable() else ascii(answer.path)[1:-1]
    if answer.count is None:
        return f"{name}: error: {answer.error}\n"
    width = max(len(own.variety) for own in answer.count.shares)
    lines = [f"{name}: {headline(answer.count)}", f"  {'variety':{width}}  grains    share   95 % interval"]
    lines += [
        f"  {own.variety:{width}}  {own.count:6}  {own.share:7.1%}   {own.low:.1%} to {own.high:.1%}"
        for own in answer.count.shares
    ]
    refused: dict[str, list[str]] = {}
    for number, told in enumerate(answer.told, start=1):
        if told.reason is not None:
            refused.setdefault(told.reason, []).append(str(number))
    lines += [f"  unknown: {reason}: {', '.join(numbers)}" for reason, numbers in refused.items()]
    return "\n".join(lines) + "\n"


def _json(record: dict[str, Any]) -> str:
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of a name that are no UTF-8 stay recoverable, as escapes
        text = json.dumps(record)
    return text + "\n"


def _csv_line(values: Sequence[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()
