"""What the notebooks of a profile recorded, read back for the summary page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rice_lib.common.errors import RiceError
from rice_lib.common.files import read_json
from rice_lib.common.paths import NOTEBOOKS, Paths
from rice_lib.common.tracking import Metric

_SCORE = re.compile(r"(?P<model>[^/]+)/(?P<scheme>random|session)/(?P<measure>accuracy|macro_f1|errors)")


@dataclass(frozen=True)
class Recorded:
    """One notebook's metrics and their provenance (see `rice_lib.common.tracking.record`)."""

    notebook: str
    metrics: dict[str, Metric]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Score:
    """One measure of one model on the test images of both split schemes; None where it was not recorded."""

    model: str
    measure: str
    random: Metric | None
    session: Metric | None
    recorded: Recorded


@dataclass(frozen=True)
class Results:
    """Everything that one profile's notebooks recorded, in their order."""

    profile: str
    recorded: tuple[Recorded, ...]
    missing: tuple[str, ...]
    """Notebooks that recorded nothing, because they have not run."""

    def metrics(self) -> Iterator[tuple[Recorded, str, Metric]]:
        """Every metric with the notebook that recorded it and its name."""
        for recorded in self.recorded:
            for name, metric in recorded.metrics.items():
                yield recorded, name, metric

    def scores(self) -> list[Score]:
        """`<model>/<scheme>/<measure>` metrics, both schemes side by side, in the order they were recorded."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for recorded, name, metric in self.metrics():
            if match := _SCORE.fullmatch(name):
                row = found.setdefault((match["model"], match["measure"]), {"recorded": recorded})
                row[match["scheme"]] = metric
        return [
            Score(model, measure, row.get("random"), row.get("session"), row["recorded"])
            for (model, measure), row in found.items()
        ]

    def one(self, key: str) -> list[str]:
        """The different values that the notebooks' provenance has under `key`, as text, in order of appearance."""
        values = [r.provenance[key] for r in self.recorded if r.provenance.get(key) is not None]
        return list(dict.fromkeys(str(value) for value in values))


def read_results(paths: Paths) -> Results:
    """Read `reports/<profile>/metrics/`.

    Raises:
        RiceError: none of the notebooks has run, or a metrics file is not one.
    """
    recorded = []
    for notebook in NOTEBOOKS:
        file = paths.metrics(notebook)
        if not file.is_file():
            continue
        try:
            content = read_json(file)
            metrics = {name: Metric(**values) for name, values in content["metrics"].items()}
            recorded.append(Recorded(notebook, metrics, content["provenance"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RiceError(f"{file}: not a metrics file ({error}); run notebook {notebook} again") from None
    if not recorded:
        raise RiceError(f"{paths.report}: nothing to report yet; run: make report PROFILE={paths.profile}")
    have = {r.notebook for r in recorded}
    return Results(paths.profile, tuple(recorded), tuple(n for n in NOTEBOOKS if n not in have))
