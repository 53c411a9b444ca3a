"""Compare two runs on one page: parameters, data, accuracies, other numbers, and what one gets right and the other not.

A run is a profile, or a folder of metrics files such as those in `reports/benchmarks/`. Where both have predictions of
the same test images, their accuracies are compared by McNemar's exact test; else by the interval of the difference.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rice_lib.common.errors import RiceError
from rice_lib.common.files import write_text
from rice_lib.common.paths import Paths
from rice_lib.common.tracking import Metric
from rice_lib.data.loading import open_examples
from rice_lib.models.metrics import Predictions, mcnemar, read_predictions
from rice_lib.report import images, style
from rice_lib.report.render import render_page
from rice_lib.report.results import KINDS, MODELS, Results, belongs, read_metrics
from rice_lib.report.tables import code, escape, markdown, p_value

MOST = 10  # pictures


@dataclass(frozen=True)
class Side:
    """One of the two runs."""

    name: str
    folder: Path
    """Its report: `metrics/` (or the metrics files themselves), `predictions/`."""
    results: Results

    @classmethod
    def open(cls, name: str, root: Path) -> Side:
        """Open a profile's run, or a folder; raises `RiceError` where nothing was recorded there."""
        folder = Path(name) if "/" in name else Paths(root, name).report
        inside = folder / "metrics"
        return cls(name, folder, read_metrics(inside if inside.is_dir() else folder, name))

    def predictions(self, model: str, split: str) -> Predictions | None:
        """Read a model's predictions of a split's test images, where they were kept."""
        file = self.folder / "predictions" / model / f"{split}.csv"
        return read_predictions(file) if file.is_file() else None


def write_comparison(names: tuple[str, str], root: Path) -> Path:
    """Write the page `reports/compare/A-B/index.html`; returns it."""
    a, b = (Side.open(name, root) for name in names)
    folder = root / "reports" / "compare" / "-".join(name.strip("/").replace("/", "_") for name in names)
    parts = {
        "Parameters that differ": _differences(_parameters(a), _parameters(b), names),
        "Data, code and machine": _differences(_origin(a), _origin(b), names),
        "Accuracy": _table(_accuracies(a, b), "They have no accuracy in common."),
        "Speed and cost": _table(_costs(a, b), "They have no measured time, rate or size in common."),
        "What one gets right and the other wrong": "\n\n".join(_pictures(a, b, root, folder)),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in parts.items())
    write_text(folder / "index.md", f"---\ntitle: Compared\n---\n\n{body}\n")
    return render_page(folder / "index.md", f"{a.name} and {b.name}, compared", root / "reports" / "styles.css")


def _parameters(side: Side) -> dict[str, Any]:
    return pd.json_normalize([recorded.parameters for recorded in side.results.recorded]).iloc[-1].to_dict()


def _origin(side: Side) -> dict[str, Any]:
    named = ("source", "data", "commit", "hardware", "created")
    images = next((m.value for _, key, m in side.results.metrics() if key == "images"), None)
    return {**{name: ", ".join(side.results.one(name)) for name in named}, "images": images}


def _differences(a: dict[str, Any], b: dict[str, Any], names: tuple[str, str]) -> str:
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    rows = ({"": key, names[0]: _shown(a.get(key)), names[1]: _shown(b.get(key))} for key in keys)
    return _table(rows, "None." if a and b else "One of the two did not record them.")


def _table(rows: Iterable[dict[str, Any]], otherwise: str) -> str:
    table = pd.DataFrame(rows, dtype=object)
    return otherwise if table.empty else markdown(table)


def _shown(value: Any) -> Any:
    return code(str(value)) if isinstance(value, list | tuple | bool) else value


def _common(a: Side, b: Side) -> list[tuple[Metric, Metric]]:
    """Pair the metrics that both runs measured."""
    ours, theirs = ({key: m for _, key, m in side.results.metrics() if m.value is not None} for side in (a, b))
    return [(ours[key], theirs[key]) for key in ours if key in theirs]


def _accuracies(a: Side, b: Side) -> Iterator[dict[str, Any]]:
    for mine, other in _common(a, b):
        if mine.name == "accuracy":
            model, split = str(mine.of["model"]), str(mine.of["split"])
            named = {"model": MODELS.get(model, model), "test images": KINDS.get(split, split)}
            verdict = _verdict(mine, other, *(side.predictions(model, split) for side in (a, b)))
            yield {**named, a.name: mine, b.name: other, f"{b.name} less {a.name}": verdict}


def _verdict(a: Metric, b: Metric, mine: Predictions | None, theirs: Predictions | None) -> str:
    ends = [100 * share for m in (a, b) for share in (m.value, m.low, m.high) if share is not None]
    difference = ends[len(ends) // 2] - ends[0]
    points = f"{difference:+.2f} points"
    if mine is not None and theirs is not None and theirs.paths == mine.paths:
        test = mcnemar(mine.labels, mine.predicted, theirs.predicted)
        counts = f"{test.only_a_wrong:,} wrong in the first only, {test.only_b_wrong:,} in the second only"
        return f"{points}; {counts}; McNemar's p: {p_value(test.p_value)}"
    if len(ends) < 6:
        return points
    # Newcombe 1998, Statistics in Medicine 17:873, method 10: from the two Wilson intervals
    value_a, low_a, high_a, value_b, low_b, high_b = ends
    low = difference - math.hypot(value_b - low_b, high_a - value_a)
    high = difference + math.hypot(high_b - value_b, value_a - low_a)
    return f"{points} [{low:+.2f}, {high:+.2f}], other test images"


def _costs(a: Side, b: Side) -> Iterator[dict[str, Any]]:
    for mine, other in _common(a, b):
        if mine.unit in ("s", "ms", "images/s", "1/s", "MB") and mine.value and other.value:
            what = " · ".join([*belongs(mine), mine.name])
            yield {"what": what, "unit": mine.unit, a.name: mine, b.name: other, "ratio": other.value / mine.value}


def _pictures(a: Side, b: Side, root: Path, folder: Path) -> Iterator[str]:
    kept = [(split, a.predictions("vit", split), b.predictions("vit", split)) for split in KINDS]
    same = [(split, x, y) for split, x, y in kept if x and y and x.paths == y.paths]
    for split, mine, theirs in same:
        for (right, correct), (wrong, missed) in itertools.permutations([(a.name, mine), (b.name, theirs)]):
            rows = np.flatnonzero((correct.predicted == mine.labels) & (missed.predicted != mine.labels))
            count = f"On the {KINDS[split]}, {len(rows):,} images"
            yield f"{count} are right in {escape(right)} and wrong in {escape(wrong)}."
            if len(rows):
                yield _grid(Paths(root, a.name), split, rows[:MOST], missed, folder / f"{split}_{wrong}.jpg")
    if not same:
        yield "There are no predictions of both on the same test images."


def _grid(paths: Paths, split: str, rows: np.ndarray, missed: Predictions, file: Path) -> str:
    try:
        examples = open_examples(paths, split, "test")
    except RiceError as error:
        return f"The images are not here: {escape(str(error))}."
    row_of = {path: row for row, path in enumerate(examples.paths)}
    pixels = examples.batch(np.array([row_of[missed.paths[row]] for row in rows]))
    style.save(images.image_grid(pixels, [images.caption(missed, row) for row in rows]), file)
    return f"![Images that one run misclassifies, with the true and the predicted variety]({file.name})"
