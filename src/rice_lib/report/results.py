"""What the notebooks of a profile recorded, read back, and as the tables of the summary page.

The rest of that page is in `template/summary.qmd.j2`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rice_lib.common.errors import RiceError
from rice_lib.common.files import read_json
from rice_lib.common.paths import NOTEBOOKS, STUDIES
from rice_lib.common.tracking import MODELS, Metric, belongs

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

    @property
    def origin(self) -> str:
        """Say what made the numbers: run, commit, parameters, data."""
        kinds = {"mlflow_run": "run", "commit": "commit", "params": "parameters", "data": "data"}
        return ", ".join(f"{name} {str(self.provenance.get(key) or 'unknown')[:12]}" for key, name in kinds.items())

    def address(self, cell: int | None) -> str:
        """Give the address of one of the notebook's cells, In [n], or of its page, from the summary page."""
        return f"pages/{self.notebook}.html" + (f"#{anchor(cell)}" if cell else "")


@dataclass(frozen=True)
class Results:
    """Everything that one profile's notebooks recorded, in their order."""

    profile: str
    recorded: tuple[Recorded, ...]
    missing: tuple[str, ...]
    """Notebooks that recorded nothing, because they have not run."""

    def owner(self, metric: Metric) -> Recorded:
        """Find what recorded a metric."""
        return next(r for r in self.recorded if any(each is metric for each in r.metrics.values()))

    def metrics(self) -> Iterator[tuple[Recorded, str, Metric]]:
        """Iterate over the metrics, each with what recorded it and its key."""
        for recorded in self.recorded:
            yield from ((recorded, key, metric) for key, metric in recorded.metrics.items())

    def one(self, key: str) -> list[str]:
        """List the different values of the notebooks' provenance under `key`, in order of appearance."""
        values = [r.provenance[key] for r in self.recorded if r.provenance.get(key) is not None]
        return list(dict.fromkeys(str(value) for value in values))


def read_metrics(folder: Path, profile: str) -> Results:
    """Read a folder of metrics files, one a notebook: `reports/<profile>/metrics/`.

    Raises `RiceError` where it holds none, because no notebook has run, or a metrics file is not one.
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
            again = f"run: rice stage {notebook} --profile {profile}"
            raise RiceError(f"{file}: not a metrics file ({error!r}); {again}") from None
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


def not_measured(results: Results) -> dict[tuple[str, str], list[str]]:
    """Collect what this machine could not measure, by notebook and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for recorded, key, metric in results.metrics():
        if metric.value is None:
            # an engine that is not there lacks all its numbers for one reason
            about = belongs(replace(metric, of={k: v for k, v in metric.of.items() if k != "batch"}))
            text = " · ".join(about) or metric.name or _words(key)
            found.setdefault((recorded.notebook, metric.how), []).append(text)
    return found


def anchor(cell: int) -> str:
    """Name the place of a cell, In [n], on its notebook's page."""
    return f"in-{cell}"


def subject(key: str, metric: Metric) -> str:
    """Say what was measured, in the words of people."""
    return " · ".join([*belongs(metric), metric.name or _words(key)])


def _words(key: str) -> str:
    return key.rpartition("/")[2].replace("_", " ")
