"""The summary page's tables, as HTML: a wide one scrolls inside itself, so that a telephone's page does not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from rice_lib.common.tracking import Metric
from rice_lib.report.results import Recorded, Results

MODELS = {
    "shape": "Ten shape and colour features",
    "cnn": "Frozen CNN, logistic regression",
    "vit": "ViT",
}
FEATURES = {"accuracy": "accuracy", "macro_f1": "macro F1", "errors": "images told wrongly"}
STAGES = {
    "01_eda": "eda",
    "02_split": "split",
    "03_baseline": "baseline",
    "04_vit_finetune": "finetune",
    "05_export": "export",
    "06_trt_benchmark": "benchmark",
    "07_triton_smoke": "serve",
}
"""The stage of dvc.yaml that runs a notebook."""

_POINT = re.compile(r"benchmark/(?P<engine>[^/]+)/b(?P<batch>\d+)/(?P<measure>[^/]+)")
NONE = "—"
"""Where there is nothing to show."""

_NO_VALUE = '<td class="number none">—</td>'


def page_link(notebook: str, text: str | None = None) -> str:
    """A link from the summary to a notebook's page."""
    return f'<a href="pages/{notebook}.html">{escape(text or notebook)}</a>'


def number(value: float, unit: str = "", precise: bool = False) -> str:
    """A number as people write it: counts whole with thousands apart, scores to four places, else four digits."""
    if precise:
        text = f"{value:.4f}"
    elif value == int(value) and abs(value) < 1e12:
        text = f"{int(value):,}"
    elif abs(value) >= 1000:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.4g}"
    return f"{text}&nbsp;{escape(unit)}" if unit else text


def value_cell(metric: Metric | None) -> str:
    """A table cell: the value with its 95 % interval and number of cases; a dash where there is none, and why."""
    if metric is None:
        return _NO_VALUE
    if metric.value is None:
        return f'<td class="number none" title="{escape(metric.how)}">not measured</td>'
    interval = metric.low is not None and metric.high is not None
    text = number(metric.value, metric.unit, precise=interval and abs(metric.value) <= 1)
    if interval:
        text += f' <span class="interval">[{number(metric.low or 0, precise=True)}, '
        text += f"{number(metric.high or 0, precise=True)}]</span>"
    return f'<td class="number">{text}</td>'


def headline(results: Results) -> str:
    """Each model's scores on both test splits, with what each number was made from."""
    head = ("measure", "random split", "session split", "n", *_ORIGIN_HEAD)
    rows = []
    previous = None
    for score in results.scores():
        if score.model != previous:
            name = escape(MODELS.get(score.model, score.model))
            rows.append(f'<tr class="group"><th colspan="{len(head)}">{name}</th></tr>')
        counts = [NONE if m is None or m.n is None else f"{m.n:,}" for m in (score.random, score.session)]
        rows.append(
            f'<tr><td class="measure">{FEATURES[score.measure]}</td>'
            f"{value_cell(_without_unit(score.random))}{value_cell(_without_unit(score.session))}"
            f'<td class="number">{" / ".join(counts)}</td>{_origin_cells(score.recorded, results.profile)}</tr>'
        )
        previous = score.model
    return _table(head, rows, numbers=3) if rows else _nothing("No notebook has recorded a score yet.")


def benchmark(results: Results) -> str:
    """One row an engine and batch size, one column a measure."""
    points: dict[tuple[str, int], dict[str, Metric]] = {}
    features: dict[str, str] = {}
    for _, name, metric in results.metrics():
        if match := _POINT.fullmatch(name):
            points.setdefault((match["engine"], int(match["batch"])), {})[match["measure"]] = metric
            if metric.value is not None:
                features[match["measure"]] = metric.unit
    measured = {key: row for key, row in points.items() if any(m.value is not None for m in row.values())}
    rows = []
    previous = None
    for (engine, batch), row in measured.items():
        cells = "".join(value_cell(_without_unit(row.get(measure))) for measure in features)
        name = engine.replace("_", " ") if engine != previous else ""
        rows.append(
            f'{_row_start(engine != previous)}<th>{escape(name)}</th><td class="number">{batch}</td>{cells}</tr>'
        )
        previous = engine
    absent = {
        engine: next(m.how for m in row.values() if m.value is None)
        for (engine, _), row in points.items()
        if not any(other == engine for other, _ in measured)
    }
    for engine, why in absent.items():
        cell = f'<td class="how none" colspan="{len(features) + 1}">{escape(why)}</td>'
        rows.append(f"{_row_start(True)}<th>{escape(engine.replace('_', ' '))}</th>{cell}</tr>")
    head = ["engine", "batch", *(_measure_name(measure, unit) for measure, unit in features.items())]
    return _table(head, rows, numbers=len(head) - 1) if rows else _nothing("Nothing was benchmarked.")


def metric_list(results: Results, notebook: str) -> str:
    """Every measured number of one notebook, but for the benchmark's points, which have a table of their own."""
    rows = [
        f"<tr><td>{escape(name)}</td>{value_cell(metric)}"
        f'<td class="number">{NONE if metric.n is None else f"{metric.n:,}"}</td>'
        f'<td class="how">{escape(metric.how)}</td></tr>'
        for recorded, name, metric in results.metrics()
        if recorded.notebook == notebook and metric.value is not None and not _POINT.fullmatch(name)
    ]
    return _table(("metric", "value", "n", "how"), rows, numbers=2) if rows else _nothing(f"{notebook} has not run.")


def not_measured(results: Results) -> str:
    """What this machine could not measure, and why; and the notebooks that have not run."""
    together: dict[tuple[str, str, str], list[str]] = {}
    for recorded, name, metric in results.metrics():
        if metric.value is None:
            # an engine that is not there lacks all its numbers for one reason: one row, not one a number
            subject = "/".join(name.split("/")[:2])
            together.setdefault((recorded.notebook, subject, metric.how), []).append(name)
    rows = []
    for (notebook, subject, how), names in together.items():
        what = names[0] if len(names) == 1 else f"{subject}: {len(names)} numbers"
        reason = how.removeprefix("not measured here: ")
        rows.append(
            f'<tr><td>{escape(what)}</td><td>{page_link(notebook)}</td><td class="how">{escape(reason)}</td></tr>'
        )
    rows += [
        f"<tr><td>everything in it</td><td>{escape(notebook)}</td><td>this notebook has not run</td></tr>"
        for notebook in results.missing
    ]
    return _table(("what", "notebook", "why"), rows) if rows else _nothing("Everything was measured.")


def everything(results: Results) -> str:
    """Every number that was recorded, folded, by notebook."""
    parts = [
        f"<details><summary>{escape(r.notebook)}</summary>\n{metric_list(results, r.notebook)}\n</details>"
        for r in results.recorded
    ]
    return "\n".join(parts)


def reproduction(results: Results) -> str:
    """For each notebook: the command that makes its numbers again, and what made them here."""
    rows = []
    for recorded in results.recorded:
        command = f"dvc repro --force --single-item {STAGES[recorded.notebook]}@{results.profile}"
        rows.append(
            f"<tr><th>{page_link(recorded.notebook)}</th><td><code>{escape(command)}</code></td>"
            f"{_origin_cells(recorded, results.profile)}<td>{escape(str(recorded.provenance.get('params', NONE)))}</td>"
            f"<td>{escape(str(recorded.provenance.get('created', NONE)))}</td></tr>"
        )
    return _table(("notebook", "made again by", *_ORIGIN_HEAD, "parameters", "made at"), rows)


def versions(results: Results) -> str:
    """The versions of what made the numbers; where notebooks differ, the last one's."""
    found: dict[str, str] = {}
    for recorded in results.recorded:
        found |= recorded.provenance.get("versions", {})
    rows = [f"<tr><th>{escape(name)}</th><td>{escape(version)}</td></tr>" for name, version in found.items()]
    return _table(("package", "version"), rows) if rows else _nothing("No versions were recorded.")


_ORIGIN_HEAD = ("run", "commit", "data", "profile", "hardware")


def _origin_cells(recorded: Recorded, profile: str) -> str:
    origin = recorded.provenance
    run, commit, data = (str(origin.get(key) or NONE) for key in ("mlflow_run", "commit", "data"))
    return (
        f'<td><code title="MLflow run {escape(run)}">{escape(run[:8])}</code></td>'
        f"<td><code>{escape(commit)}</code></td>"
        f'<td><code title="sha256 of the manifest: {escape(data)}">{escape(data[:8])}</code></td>'
        f'<td>{escape(profile)}</td><td class="hardware">{escape(str(origin.get("hardware", NONE)))}</td>'
    )


def _row_start(begins_group: bool) -> str:
    return '<tr class="group">' if begins_group else "<tr>"


def _without_unit(metric: Metric | None) -> Metric | None:
    return metric and Metric(metric.value, metric.low, metric.high, metric.n, "", metric.how)


def _measure_name(measure: str, unit: str) -> str:
    name = measure.removesuffix("_ms").replace("_", " ").replace("images per s", "images/s")
    return f"{name} ({unit})" if unit and unit not in name else name


def _table(head: Sequence[str], rows: Iterable[str], numbers: int = 0) -> str:
    """A table; its columns 1 to `numbers` (the first being 0) hold numbers."""
    heads = "".join(
        f'<th class="number">{escape(name)}</th>' if 1 <= k <= numbers else f"<th>{escape(name)}</th>"
        for k, name in enumerate(head)
    )
    body = "\n".join(rows)
    table = f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    return f'<div class="table-scroll" tabindex="0">\n{table}\n</div>'


def _nothing(text: str) -> str:
    return f'<p class="nothing">{escape(text)}</p>'
