"""What the notebooks of a profile recorded, read back, and as the tables of the summary page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from rice_lib.common.errors import RiceError
from rice_lib.common.files import read_json
from rice_lib.common.paths import NOTEBOOKS, STUDIES, Paths
from rice_lib.common.tracking import ENGINES, MODELS, Metric, belongs
from rice_lib.report.tables import NONE, Formatted, code, escape, link, markdown
from rice_lib.report.tables import metric as metric_text

KINDS = {"random": "random split", "session": "session never seen", "camera": "simulated camera"}
"""What people call the test images, from the easiest to the hardest."""

_STAGE_NAMES = ("eda", "split", "baseline", "finetune", "export", "benchmark", "serve")
STAGES = dict(zip(NOTEBOOKS, _STAGE_NAMES, strict=True))
"""The stage of dvc.yaml that runs a notebook."""


def stage_of(notebook: str, profile: str) -> str:
    """Name the stage that runs a notebook under a profile, as `dvc repro` takes it."""
    folder, _, study = notebook.rpartition("/")
    return f"study@{profile}-{study}" if folder else f"{STAGES[notebook]}@{profile}"


@dataclass(frozen=True)
class Recorded:
    """What one notebook recorded (see `rice_lib.common.tracking.record`)."""

    notebook: str
    metrics: dict[str, Metric]
    figures: dict[str, str]
    """Name to caption of the figures for the summary page."""
    provenance: dict[str, Any]
    parameters: dict[str, Any]
    """The run's, by section."""


@dataclass(frozen=True)
class Results:
    """Everything that one profile's notebooks recorded, in their order."""

    profile: str
    recorded: tuple[Recorded, ...]
    missing: tuple[str, ...]
    """Notebooks that recorded nothing, because they have not run."""

    def by_notebook(self) -> dict[str, Recorded]:
        """Index what was recorded by its notebook."""
        return {recorded.notebook: recorded for recorded in self.recorded}

    def owner(self, metric: Metric) -> Recorded:
        """Find what recorded a metric."""
        return next(r for r in self.recorded if any(each is metric for each in r.metrics.values()))

    def metrics(self) -> Iterator[tuple[str, str, Metric]]:
        """Iterate over notebook, key and metric."""
        for recorded in self.recorded:
            for key, metric in recorded.metrics.items():
                yield recorded.notebook, key, metric

    def one(self, key: str) -> list[str]:
        """List the different values of the notebooks' provenance under `key`, in order of appearance."""
        values = [r.provenance[key] for r in self.recorded if r.provenance.get(key) is not None]
        return list(dict.fromkeys(str(value) for value in values))


def read_results(paths: Paths) -> Results:
    """Read `reports/<profile>/metrics/`, see `read_metrics`."""
    return read_metrics(paths.report / "metrics", paths.profile)


def read_metrics(folder: Path, profile: str) -> Results:
    """Read a folder of metrics files, one a notebook.

    Raises:
        RiceError: it holds none, because no notebook has run, or a metrics file is not one.
    """
    recorded = []
    studies = {study: folder.parent / study / "metrics.json" for study in STUDIES}
    for notebook, file in ({name: folder / f"{name}.json" for name in NOTEBOOKS} | studies).items():
        if not file.is_file():
            continue
        try:
            content = read_json(file)
            metrics = {key: Metric(**values) for key, values in content["metrics"].items()}
            more = (content["provenance"], content.get("parameters", {}))
            recorded.append(Recorded(notebook, metrics, dict(content.get("figures", {})), *more))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RiceError(
                f"{file}: not a metrics file ({error!r}); run: rice stage {notebook} --profile {profile}"
            ) from None
    if not recorded:
        raise RiceError(f"{folder}: nothing to report yet; run: make report PROFILE={profile}")
    have = {r.notebook for r in recorded}
    return Results(profile, tuple(recorded), tuple(n for n in NOTEBOOKS if n not in have))


def accuracies(results: Results) -> dict[str, dict[str, Metric]]:
    """Collect the models' accuracies: what people call a model, then the kind of test images."""
    found: dict[str, dict[str, Metric]] = {}
    for _, _, metric in results.metrics():
        if metric.of.keys() == {"model", "split"} and metric.name == "accuracy":
            model, split = str(metric.of["model"]), str(metric.of["split"])
            found.setdefault(MODELS.get(model, model), {})[KINDS.get(split, split)] = metric
    return found


def headline(results: Results) -> str:
    """Compare the models' accuracies in percent, one column a kind of test images that has any, intervals below."""
    found = accuracies(results)
    measured = {kind for metrics in found.values() for kind, metric in metrics.items() if metric.value is not None}
    kinds = [kind for kind in dict.fromkeys([*KINDS.values(), *sorted(measured)]) if kind in measured]
    rows = [
        {"accuracy, %": model, **{kind: _share(results, metrics.get(kind)) for kind in kinds}}
        for model, metrics in found.items()
    ]
    return table(rows, "No notebook has recorded a score yet.")


def benchmark(results: Results) -> str:
    """Compare the engines: one row an engine and batch size."""
    rows: dict[tuple[Any, Any], dict[str, Any]] = {}
    for notebook, _, metric in results.metrics():
        if metric.of.keys() == {"engine", "batch"} and metric.value is not None:
            engine, batch = str(metric.of["engine"]), metric.of["batch"]
            row = rows.setdefault((engine, batch), {"engine": ENGINES.get(engine, engine), "images a call": batch})
            row[f"{metric.name}, {metric.unit}"] = traced(results.by_notebook()[notebook], metric)
    return table(list(rows.values()), "Nothing was benchmarked.")


def metric_list(results: Results, notebook: str) -> str:
    """List the numbers that a notebook measured."""
    rows = [
        {
            "what": " · ".join([*belongs(metric), metric.name or _words(key)]),
            "value": traced(results.by_notebook()[owner], metric),
            "unit": metric.unit,
            "cases": metric.n,
            "how": metric.how,
        }
        for owner, key, metric in results.metrics()
        if owner == notebook and metric.value is not None
    ]
    return table(rows, f"{notebook} has not run.")


def not_measured(results: Results) -> str:
    """List what this machine could not measure, one line a reason, and the notebooks that have not run."""
    together: dict[tuple[str, str], list[str]] = {}
    for notebook, key, metric in results.metrics():
        if metric.value is None:
            # an engine that is not there lacks all its numbers for one reason
            subject = " · ".join(belongs(replace(metric, of={k: v for k, v in metric.of.items() if k != "batch"})))
            together.setdefault((notebook, metric.how), []).append(subject or metric.name or _words(key))
    lines = [
        f"- **{escape('; '.join(dict.fromkeys(subjects)))}**: {escape(how.removeprefix('not measured here: '))} "
        f"({link(notebook[:2], f'pages/{notebook}.html').text})"
        for (notebook, how), subjects in together.items()
    ]
    lines += [f"- **{escape(notebook)}** has not run" for notebook in results.missing]
    return "\n".join(lines) or "Everything was measured."


def everything(results: Results) -> str:
    """List every number that was recorded, folded, by notebook."""
    parts = [
        f"<details><summary>{r.notebook}</summary>\n\n{metric_list(results, r.notebook)}\n\n</details>"
        for r in results.recorded
    ]
    return "\n\n".join(parts)


def made_by(results: Results) -> str:
    """Say in one line what made the numbers."""
    names = {"commit": "commit", "params": "parameters", "data": "data", "hardware": "on"}
    found = {
        name: dict.fromkeys(v[:16] if key != "hardware" else v for v in results.one(key)) for key, name in names.items()
    }
    times = sorted(time[:16].replace("T", " ") for time in results.one("created"))
    found["made"] = dict.fromkeys([" to ".join(dict.fromkeys([*times[:1], *times[-1:]])) + " UTC"] if times else [])
    return "; ".join(f"{name} {escape(', '.join(values))}" for name, values in found.items() if values) + "."


def provenance(results: Results) -> str:
    """List, for each notebook, what made its numbers and the command that makes them again."""
    rows = [
        {
            "notebook": _page(r.notebook),
            "MLflow run": code(str(r.provenance.get("mlflow_run") or "")[:8]),
            "commit": code(str(r.provenance.get("commit") or "")),
            "data": code(str(r.provenance.get("data") or "")[:8]),
            "parameters": code(str(r.provenance.get("params") or "")[:8]),
            "made at": r.provenance.get("created"),
            "hardware": r.provenance.get("hardware"),
            "again with": code(f"dvc repro --force --single-item {stage_of(r.notebook, results.profile)}"),
        }
        for r in results.recorded
    ]
    return table(rows, "")


def versions(results: Results) -> str:
    """List the versions of what made the numbers; where notebooks differ, the last one's."""
    found: dict[str, str] = {}
    for recorded in results.recorded:
        found |= recorded.provenance.get("versions", {})
    return table([{"package": n, "version": v} for n, v in found.items()], "No versions were recorded.")


def traced(recorded: Recorded, metric: Metric, text: str | None = None) -> Formatted:
    """Show a metric, or `text` for it, as a link to the notebook's cell that made it; the title says what it is of."""
    text = metric_text(metric) if text is None else text
    if metric.value is None:
        return Formatted(escape(text), number=True)
    return link(text, address(recorded, metric.cell), origin(recorded), number=True)


def address(recorded: Recorded, cell: int | None) -> str:
    """Give the address of a notebook's cell, from the summary page."""
    return f"pages/{recorded.notebook}.html" + (f"#{anchor(cell)}" if cell else "")


def origin(recorded: Recorded) -> str:
    """Say what made a notebook's numbers: run, commit, parameters, data."""
    kinds = {"mlflow_run": "run", "commit": "commit", "params": "parameters", "data": "data"}
    return ", ".join(f"{name} {str(recorded.provenance.get(key) or 'unknown')[:12]}" for key, name in kinds.items())


def anchor(cell: int) -> str:
    """Name the place of a cell, In [n], on its notebook's page."""
    return f"in-{cell}"


def table(rows: list[dict[str, Any]], otherwise: str) -> str:
    """Show rows as a Markdown table, or say `otherwise` where there is none."""
    return markdown(pd.DataFrame(rows, dtype=object)) if rows else otherwise


def _share(results: Results, metric: Metric | None) -> Formatted:
    if metric is None or metric.value is None:
        return Formatted(NONE, number=True)
    shown = traced(results.owner(metric), metric, f"{100 * metric.value:.2f}").text
    ends = [f"{100 * end:.2f}" for end in (metric.low, metric.high) if end is not None]
    return Formatted("<br>".join(filter(None, [shown, "\u2013".join(ends)])), number=True)


def _page(notebook: str) -> Formatted:
    return link(notebook, f"pages/{notebook}.html")


def _words(key: str) -> str:
    return key.rpartition("/")[2].replace("_", " ")
