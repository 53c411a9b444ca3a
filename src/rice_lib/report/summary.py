"""The summary page: the answer in four numbers, and figures whose captions say what they show.

Every figure and number leads to the cell of the notebook that made it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape

import nbformat
import pandas as pd

from rice_lib.common.errors import RiceError
from rice_lib.common.paths import Paths
from rice_lib.common.tracking import Metric
from rice_lib.report import charts, style
from rice_lib.report.results import ENGINES, KINDS, MODELS, Results, accuracies, address, origin
from rice_lib.report.tables import number

OWN = "summary"
"""Where the page's own figures lie, beside those of the notebooks."""

MINUS = "\u2212"

_MADE_OF = {"slope": "accuracy", "recalls": "recall"}
"""The metric that a figure of the page's own is made of: it leads to the cell of the last one."""


def raw(html: str) -> str:
    """Fence HTML that Quarto leaves as it is."""
    return f"```{{=html}}\n{html}\n```"


@dataclass
class Figures:
    """The figures of the page as HTML: those of the notebooks, and its own, which `draw` makes."""

    results: Results
    paths: Paths
    captions: dict[tuple[str, str], str] = field(init=False)
    shown: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.captions = {(r.notebook, name): text for r in self.results.recorded for name, text in r.figures.items()}

    def draw(self) -> None:
        """Draw the page's own figures."""
        style.use_style()
        self.paths.figure(OWN, "any").parent.mkdir(parents=True, exist_ok=True)
        found = accuracies(self.results)
        if any(metric.value is not None for metrics in found.values() for metric in metrics.values()):
            style.save(charts.slope(found, list(KINDS.values())), self.paths.figure(OWN, "slope"))
            self.captions[OWN, "slope"] = _slope_finding(found)
        table = pd.DataFrame(_recalls(self.results))
        if len(table):
            style.save(charts.recalls(table), self.paths.figure(OWN, "recalls"))
            self.captions[OWN, "recalls"] = _recall_finding(table)

    def __call__(self, notebook: str, name: str) -> str:
        """Show one figure, or say that it was not made."""
        if (notebook, name) not in self.captions:
            return raw(f'<p class="absent">Not measured here: {escape(notebook)} recorded no figure “{name}”.</p>')
        return raw(self._figure(notebook, name))

    def rest(self) -> str:
        """Show the figures that the page has not shown yet, side by side."""
        inside = "\n".join(self._figure(*key) for key in self.captions if key not in self.shown)
        return raw(f'<div class="gallery">\n{inside}\n</div>') if inside else "All are above."

    def _figure(self, notebook: str, name: str) -> str:
        self.shown.add((notebook, name))
        file = self.paths.figure(notebook, name)
        if not file.is_file():
            raise RiceError(f"{file}: missing; run: rice stage {notebook} --profile {self.paths.profile}")
        if notebook == OWN:
            *_, last = (m for _, _, m in self.results.metrics() if m.name == _MADE_OF[name] and m.value is not None)
            recorded, cell = self.results.owner(last), last.cell
        else:
            recorded = self.results.by_notebook()[notebook]
            cell = next((n for pattern, n in self._cells(notebook).items() if re.fullmatch(pattern, name)), None)
        source, text = file.relative_to(self.paths.report).as_posix(), escape(self.captions[notebook, name])
        image = f'<img src="{source}" alt="{text}">'
        link = f'<a href="{address(recorded, cell)}" title="{escape(origin(recorded))}">{image}</a>'
        return f"<figure>{link}<figcaption>{text}</figcaption></figure>"

    def _cells(self, notebook: str) -> dict[str, int]:
        """Find the cells that save figures: a pattern of the figure's name to the n of In [n]."""
        file = self.paths.notebook(notebook)
        return {
            re.sub(r"\\{.*?\\}", ".+", re.escape(name)): cell.execution_count
            for cell in (nbformat.read(file, as_version=4).cells if file.is_file() else ())
            for name in re.findall(r'paths\.figure\([^,()]+, f?"([^"]+)"\)', cell.source)
            if cell.get("execution_count")
        }


def answers(results: Results) -> str:
    """Answer in four numbers with their intervals: three accuracies of the model that is exported, and its speed."""
    found = accuracies(results)
    model = MODELS["vit"] if MODELS["vit"] in found else next(reversed(found), "")
    tiles = []
    for kind in KINDS.values():
        metric = found.get(model, {}).get(kind, Metric(None, how="no notebook has recorded it"))
        reach = f"{percent(metric.low, metric.high)} · " if metric.low is not None and metric.high is not None else ""
        tiles.append(_tile(results, kind, percent(metric.value), f"{reach}{metric.n or 0:,} images", metric))
    tiles.append(_speed_tile(results))
    return raw(f'<div class="answers">\n{"".join(tiles)}</div>')


def percent(*shares: float | None) -> str:
    """Format a share, or both ends of an interval, as a percentage with two decimals."""
    return " to ".join(f"{100 * share:.2f}" for share in shares if share is not None) + " %"


def _tile(results: Results, title: str, value: str, more: str, metric: Metric) -> str:
    if metric.value is None:
        why = escape(metric.how.removeprefix("not measured here: "))
        return f'<div class="answer"><b>{title}</b><em>not measured here</em><small>{why}</small></div>\n'
    recorded = results.owner(metric)
    inside = f"<b>{title}</b><strong>{value}</strong><small>{more}</small>"
    return (
        f'<a class="answer" href="{address(recorded, metric.cell)}" title="{escape(origin(recorded))}">{inside}</a>\n'
    )


def _speed_tile(results: Results) -> str:
    """The highest throughput of all engines, and the shortest time of one image with the time that 90 % stay within."""
    at = {(key.rpartition("/")[0], key.rpartition("/")[2]): m for _, key, m in results.metrics() if "batch" in m.of}
    rates = {point: m for (point, what), m in at.items() if what == "images_per_s" and m.value is not None}
    if not rates:
        return _tile(results, "speed", "", "", Metric(None, how="no notebook has recorded it"))
    best = max(rates.values(), key=lambda m: m.value or 0)
    more = ENGINES.get(str(best.of["engine"]), str(best.of["engine"]))
    singles = [point for point, m in rates.items() if m.of["batch"] == 1 and (point, "p50_ms") in at]
    if singles:
        quickest = min(singles, key=lambda point: at[point, "p50_ms"].value or math.inf)
        times = [at[quickest, what].value for what in ("p50_ms", "p90_ms") if (quickest, what) in at]
        said = (f"{number(time, 2)} ms" for time in times if time is not None)
        more += f" · one image in {', 90 % within '.join(said)}"
    return _tile(results, "speed", f"{best.value:,.0f} <span>images/s</span>", escape(more), best)


def _slope_finding(found: Mapping[str, Mapping[str, Metric]]) -> str:
    first, *others = KINDS.values()
    said = []
    for kind in others:
        pairs = {model: (metrics.get(first), metrics.get(kind)) for model, metrics in found.items()}
        gains = [
            f"{100 * (at.value - before.value):+.1f} ({model})".replace("-", MINUS)
            for model, (before, at) in pairs.items()
            if before and at and before.value is not None and at.value is not None
        ]
        said += [f"{kind} {', '.join(gains)} points"] if gains else []
    return f"Accuracy against the {first}: {'; '.join(said)}." if said else f"Only the {first} was measured."


def _recalls(results: Results) -> Iterator[dict[str, object]]:
    for _, _, metric in results.metrics():
        if metric.name == "recall" and metric.value is not None and metric.of.get("split") in KINDS:
            model, variety = (str(metric.of.get(key)) for key in ("model", "variety"))
            kind = KINDS[str(metric.of["split"])]
            yield {"variety": variety, "model": MODELS.get(model, model), "kind": kind, "recall": metric}


def _recall_finding(table: pd.DataFrame) -> str:
    said = []
    for kind, rows in table.groupby("kind", sort=False):
        worst = rows.loc[rows["recall"].map(lambda metric: metric.value).idxmin()]
        said.append(f"on the {kind} {worst['variety']} with {100 * worst['recall'].value:.1f} % ({worst['model']})")
    return f"The lowest recall: {'; '.join(said)}."
