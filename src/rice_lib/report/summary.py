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
from rice_lib.common.tracking import Metric
from rice_lib.report import charts, style
from rice_lib.report.results import ENGINES, KINDS, MODELS, Recorded, Results, accuracies
from rice_lib.report.tables import number

OWN = "summary"
"""Where the page's own figures lie, beside those of the notebooks."""

MINUS = "\u2212"
UNRECORDED = Metric(None, how="no notebook has recorded it")


@dataclass
class Figures:
    """The figures of the page: those of the notebooks, and its own, which `draw` makes."""

    results: Results
    paths: Paths
    captions: dict[tuple[str, str], str] = field(init=False)
    shown: set[tuple[str, str]] = field(default_factory=set)
    last: dict[str, Metric] = field(default_factory=dict)
    """Name of an own figure to the last metric that it is made of: it leads to that one's cell."""

    def __post_init__(self) -> None:
        self.captions = {(r.notebook, name): text for r in self.results.recorded for name, text in r.figures.items()}

    def draw(self) -> None:
        """Draw the page's own figures."""
        style.use_style()
        self.paths.figure(OWN, "any").parent.mkdir(parents=True, exist_ok=True)
        found = accuracies(self.results)
        measured = [m for metrics in found.values() for m in metrics.values() if m.value is not None]
        if measured:
            style.save(charts.slope(found, list(KINDS.values())), self.paths.figure(OWN, "slope"))
            self.captions[OWN, "slope"], self.last["slope"] = _slope_finding(found), measured[-1]
        table = _recalls(self.results)
        if len(table):
            style.save(charts.recalls(table), self.paths.figure(OWN, "recalls"))
            self.captions[OWN, "recalls"], self.last["recalls"] = _recall_finding(table), table["recall"].iloc[-1]

    def find(self, notebook: str, name: str) -> dict[str, str] | None:
        """Find a figure's file and caption, and the address and origin of what made it; None where nothing did.

        Raises:
            RiceError: it was recorded, but its file is not there.
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
            return self.results.owner(self.last[name]), self.last[name].cell
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
    """Find the highest throughput of all engines; the text says of which, and the shortest time of one image, with the
    time that 90 % stay within."""
    points: dict[tuple[str, int], dict[str, Metric]] = {}
    for _, key, metric in results.metrics():
        if "batch" in metric.of and metric.value is not None:
            point = str(metric.of["engine"]), int(metric.of["batch"])
            points.setdefault(point, {})[key.rpartition("/")[2]] = metric
    rates = [found["images_per_s"] for found in points.values() if "images_per_s" in found]
    if not rates:
        return UNRECORDED, ""
    best = max(rates, key=lambda metric: metric.value or 0)
    text = ENGINES.get(str(best.of["engine"]), str(best.of["engine"]))
    singles = [found for (_, batch), found in points.items() if batch == 1 and "p50_ms" in found]
    if singles:
        quickest = min(singles, key=lambda found: found["p50_ms"].value or 0)
        times = [quickest[what].value for what in ("p50_ms", "p90_ms") if what in quickest]
        text += f" · one image in {', 90 % within '.join(f'{number(time or 0, 2)} ms' for time in times)}"
    return best, text


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


def _recalls(results: Results) -> pd.DataFrame:
    """Collect the recalls that were measured: `variety`, `model`, `kind` of the test images, `recall`."""
    return pd.DataFrame(
        {"variety": m.of.get("variety"), "model": MODELS.get(str(m.of["model"]), m.of["model"]),
         "kind": KINDS[str(m.of["split"])], "recall": m}
        for _, _, m in results.metrics()
        if m.name == "recall" and m.value is not None and m.of.get("split") in KINDS
    )  # fmt: skip


def _recall_finding(table: pd.DataFrame) -> str:
    said = []
    for kind, rows in table.groupby("kind", sort=False):
        worst = rows.loc[rows["recall"].map(lambda metric: metric.value).idxmin()]
        said.append(f"on the {kind} {worst['variety']} with {100 * worst['recall'].value:.1f} % ({worst['model']})")
    return f"The lowest recall: {'; '.join(said)}."
