"""What the summary page shows beside tables: the answer in four numbers, and figures whose captions say what they show.

Every figure and number leads to the cell of the notebook that made it. The HTML is in `template/summary.qmd.j2`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import nbformat
import pandas as pd

from rice_lib.common.errors import RiceError
from rice_lib.common.paths import Paths
from rice_lib.common.tracking import ENGINES, MODELS, Metric
from rice_lib.report import charts, style
from rice_lib.report.results import KINDS, Recorded, Results, accuracies
from rice_lib.report.tables import number

OWN = "summary"
"""Where the page's own figure lies, beside those of the notebooks."""

MINUS = "\u2212"
UNRECORDED = Metric(None, how="no notebook has recorded it")


@dataclass
class Figures:
    """The figures of the page: those of the notebooks, and one of its own, which `draw` makes."""

    results: Results
    paths: Paths
    captions: dict[tuple[str, str], str] = field(init=False)
    shown: set[tuple[str, str]] = field(default_factory=set)
    last: Metric = UNRECORDED
    """The last metric that the page's own figure is made of: it leads to that one's cell."""

    def __post_init__(self) -> None:
        self.captions = {(r.notebook, name): text for r in self.results.recorded for name, text in r.figures.items()}

    def draw(self) -> None:
        """Draw the page's own figure: accuracies over the kinds of test images."""
        style.use_style()
        self.paths.figure(OWN, "any").parent.mkdir(parents=True, exist_ok=True)
        found = accuracies(self.results)
        measured = [m for metrics in found.values() for m in metrics.values() if m.value is not None]
        if measured:
            style.save(charts.slope(found, list(KINDS.values())), self.paths.figure(OWN, "slope"))
            self.captions[OWN, "slope"], self.last = _slope_finding(found), measured[-1]

    def find(self, notebook: str, name: str) -> dict[str, str] | None:
        """Find a figure's file and caption, and the address and origin of what made it; None where nothing did.

        Raises `RiceError` where it was recorded, but its file is not there.
        """
        if (notebook, name) not in self.captions:
            return None
        self.shown.add((notebook, name))
        file = self.paths.figure(notebook, name)
        if not file.is_file():
            raise RiceError(f"{file}: missing; run: rice stage {notebook} --profile {self.paths.profile}")
        recorded, cell = self._maker(notebook, name)
        source, caption = file.relative_to(self.paths.report).as_posix(), self.captions[notebook, name]
        return {"source": source, "caption": caption, "address": recorded.address(cell), "origin": recorded.origin}

    def rest(self) -> list[dict[str, str] | None]:
        """Find the figures that the page has not shown yet."""
        return [self.find(*key) for key in self.captions if key not in self.shown]

    def _maker(self, notebook: str, name: str) -> tuple[Recorded, int | None]:
        """Find what recorded a figure, and the cell that saved it: the n of In [n]."""
        if notebook == OWN:
            return self.results.owner(self.last), self.last.cell
        recorded = next(r for r in self.results.recorded if r.notebook == notebook)
        file = self.paths.notebook(notebook)
        for cell in nbformat.read(file, as_version=4).cells if file.is_file() else ():
            for saved in re.findall(r'paths\.figure\([^,()]+, f?"([^"]+)"\)', cell.source):
                pattern = re.sub(r"\\{.*?\\}", ".+", re.escape(saved))
                if cell.get("execution_count") and re.fullmatch(pattern, name):
                    return recorded, cell.execution_count
        return recorded, None


def answers(results: Results) -> dict[str, Metric]:
    """Collect the accuracies of the model that is exported, by kind of test images."""
    found = accuracies(results)
    model = MODELS["vit"] if MODELS["vit"] in found else next(reversed(found), "")
    return {kind: found.get(model, {}).get(kind, UNRECORDED) for kind in KINDS.values()}


def speed(results: Results) -> tuple[Metric, str]:
    """Find the highest throughput of all engines; the text says of which, and the shortest median time of one image."""
    points = [(key.rpartition("/")[2], metric) for _, key, metric in results.metrics() if "batch" in metric.of]
    measured = [(what, metric) for what, metric in points if metric.value is not None]
    rates = [metric for what, metric in measured if what == "images_per_s"]
    if not rates:
        return UNRECORDED, ""
    best = max(rates, key=lambda metric: metric.value or 0)
    singles = [metric.value or 0 for what, metric in measured if what == "p50_ms" and metric.of["batch"] == 1]
    shortest = f" · one image in {number(min(singles), 2)} ms" if singles else ""
    return best, ENGINES.get(str(best.of["engine"]), str(best.of["engine"])) + shortest


def _slope_finding(found: Mapping[str, Mapping[str, Metric]]) -> str:
    first, *others = KINDS.values()
    values = pd.DataFrame({model: {kind: m.value for kind, m in metrics.items()} for model, metrics in found.items()})
    points = 100 * values.reindex(KINDS.values()).astype(float)
    said = []
    for kind in others:
        gains = (points.loc[kind] - points.loc[first]).dropna()
        each = (f"{gain:+.1f} ({model})".replace("-", MINUS) for model, gain in gains.items())
        said += [f"{kind} {', '.join(each)} points"] if len(gains) else []
    return f"Accuracy against the {first}: {'; '.join(said)}." if said else f"Only the {first} was measured."
