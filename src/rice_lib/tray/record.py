"""The record of one tray, and its text: its grains with the prediction of each, counts and shares of the varieties.

A table is for people, a row a grain for programs. JSON lines hold one object a grain, which has `grain`, and after
those of a tray one that has `summary`: `jq 'select(.grain)'` and `jq 'select(.summary)'` part them. CSV holds the
grains alone. A tray that cannot be read is one record with `path` and `error`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rice_lib.common.files import csv_line, json_line, printable
from rice_lib.common.interval import wilson
from rice_lib.contract.decision import UNLIKE
from rice_lib.contract.prediction import UNKNOWN, Prediction
from rice_lib.contract.record import Record
from rice_lib.tray.find import Grain
from rice_lib.tray.sheet import LIMITS, Sheet

_SIZES = ("x", "y", "length_px", "width_px", "length_mm", "width_mm", "angle", "broken", "colour")
MAX_LISTED = 20  # rejected grains of one reason whose numbers a table lists: of more it gives the count


@dataclass(frozen=True)
class Share:
    """One variety on a tray: its share of the classified grains, with its 95 % interval."""

    variety: str
    count: int
    share: float
    low: float
    high: float

    def as_dict(self) -> dict[str, Any]:
        """Give it as it is written."""
        interval = [round(self.low, 4), round(self.high, 4)]
        return {"count": self.count, "share": round(self.share, 4), "interval": interval}


@dataclass(frozen=True)
class Counts:
    """What lies on a tray, in numbers."""

    shares: tuple[Share, ...]  # one a variety, in the model's order
    classified: int  # grains that are of a known variety: what the shares are of
    unknown: int  # objects that are no grain of a known variety
    cut: int  # objects that the picture's border cuts: neither classified nor counted

    def __str__(self) -> str:
        """One line: how many grains, and what was left out."""
        parts = [f"{self.classified} grain{'s' * (self.classified != 1)} classified"]
        parts += [f"{self.unknown} unknown"] * bool(self.unknown) + [f"{self.cut} cut by the border"] * bool(self.cut)
        return ", ".join(parts)


def count(predictions: Sequence[Prediction], labels: Sequence[str], cut: int) -> Counts:
    """Count the varieties; the intervals are those of a random sample of grains, not of the model's errors."""
    found = {name: sum(prediction.label == name for prediction in predictions) for name in (*labels, UNKNOWN)}
    known = len(predictions) - found[UNKNOWN]
    shares = (Share(name, found[name], found[name] / max(known, 1), *wilson(found[name], known)) for name in labels)
    return Counts(tuple(shares), known, found[UNKNOWN], cut)


def rejected_together(predictions: Sequence[Prediction]) -> list[str]:
    """Say once why most grains of a tray are rejected, and what to do; nothing where fewer than half are."""
    reasons = Counter(own.reason for own in predictions if own.reason is not None)
    if 2 * reasons.total() <= len(predictions):
        return []
    reason, count = reasons.most_common(1)[0]
    advice = (
        "these grains are photographed differently from the training images, or are other varieties: train on your "
        "own photographs (docs/own_rice.qmd)"
        if reason.startswith(UNLIKE)
        else "lay grains apart, on one dark or coloured card, and photograph them from straight above"
    )
    return [f"{reasons.total()} of {len(predictions)} grains are rejected, {count} of them as {reason}; {advice}"]


@dataclass(frozen=True)
class TrayRecord:
    """One tray: its grains and their counts, or the error where it could not be read."""

    path: str
    grains: Sequence[Grain] = ()
    predictions: Sequence[Prediction] = ()  # one a grain
    counts: Counts | None = None
    sheet: Sheet | None = None  # of all grains, whatever the model makes of them; with the counts
    cut: Sequence[np.ndarray] = ()  # outlines of what the picture's border cuts
    mm_per_pixel: float | None = None  # where the scale is known
    notes: tuple[str, ...] = ()  # warnings about the photograph
    error: str | None = None

    def grain_dicts(self, top_k: int) -> list[dict[str, Any]]:
        """Give each grain as it is written, with its `top_k` highest scores.

        Lengths are in pixels and, where the scale is known, in millimetres, the angle is in degrees; `colour` names
        the grain's defect, empty for none, null where colours were not measured.
        """
        if self.sheet is None:
            return []
        records, scale = [], self.mm_per_pixel
        for number, (grain, prediction) in enumerate(zip(self.grains, self.predictions, strict=True)):
            sizes = {"length": grain.length, "width": grain.width}
            record: dict[str, Any] = {
                "path": self.path,
                "grain": number + 1,
                **dict(zip("xy", (round(place, 1) for place in grain.centre), strict=True)),
                **{f"{name}_px": round(size, 1) for name, size in sizes.items()},
                **({f"{name}_mm": round(size * scale, 3) for name, size in sizes.items()} if scale else {}),
                "angle": round(grain.angle, 1),
                "broken": bool(self.sheet.broken[number]),
                "colour": self.sheet.colours[number] if self.sheet.no_colours is None else None,
            }
            records.append(record | Record(self.path, prediction).as_dict(top_k))
        return records

    def summary(self) -> dict[str, Any]:
        """Give the counts as they are written."""
        assert self.counts is not None
        assert self.sheet is not None
        return {
            "found": self.counts.classified + self.counts.unknown,
            "told": self.counts.classified,  # the key of version 0.1
            "unknown": self.counts.unknown,
            "cut": self.counts.cut,
            "mm_per_pixel": self.mm_per_pixel,
            "varieties": {own.variety: own.as_dict() for own in self.counts.shares},
            "quality": self.sheet.as_dict(),
        }


class TrayWriter:
    """Formats tray records as `table`, `jsonl` or `csv`: a `rice_lib.predict.resume.Formatter`."""

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
