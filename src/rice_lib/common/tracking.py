"""Record what a notebook measured, with its provenance: one JSON file for the report and DVC, and one MLflow run."""

from __future__ import annotations

import atexit
import contextlib
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

from rice_lib.common.files import locked, read_json, sha256_file, write_json
from rice_lib.common.interval import wilson
from rice_lib.common.machine import cores
from rice_lib.common.paths import NOTEBOOKS
from rice_lib.common.run import Run

VERSIONED_PACKAGES = ("torch", "transformers", "timm", "scikit-learn", "numpy", "pillow", "onnxruntime", "tensorrt")

MODELS = {"shape": "Ten features", "cnn": "Frozen CNN", "vit": "ViT", "head": "ViT and grain features, head alone"}
"""What people call the models."""

ENGINES = {
    "torch_eager": "torch",
    "torch_compiled": "torch, compiled",
    "onnx_float32": "ONNX Runtime, float32",
    "onnx_float16": "ONNX Runtime, float16",
    "onnx_int8": "ONNX Runtime, int8",
    "openvino_float32": "OpenVINO, float32",
    "tensorrt_float32": "TensorRT, float32",
    "tensorrt_float16": "TensorRT, float16",
}
"""What people call the engines of the benchmark."""

SPLITS = {
    "random": "random split",
    "session": "session split",
    "camera": "simulated camera",
    "by photograph": "photographs never seen",
}
"""What people call the images that a model was tested on."""

_URI_FROM_OUTSIDE = os.environ.get("MLFLOW_TRACKING_URI") or None
"""Where the profile names no `tracking.uri`. Read once, for MLflow writes the URI that it was given last there."""


def current_cell() -> int | None:
    """Find the number of the notebook's cell that is running, the n of In [n]; None outside a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    # the inputs begin with an empty one; `execution_count` is the next cell's from IPython 9 on
    return len(shell.history_manager.input_hist_parsed) - 1 if shell else None


@dataclass(frozen=True)
class Metric:
    """A measured number. A `value` of None means "not measured here", and `how` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None  # the 95 % interval, where there is one
    n: int | None = None  # cases that it was measured on
    unit: str = ""
    how: str = ""
    name: str = ""  # what people call it: `macro F1`
    of: Mapping[str, str | int] = field(default_factory=dict)
    """What it belongs to: `{"model": "vit", "split": "random"}`, a `variety`, an `engine` and its `batch`."""
    cell: int | None = field(default_factory=current_cell)
    """The notebook's cell that made it, n of In [n]."""


def share_of(count: int, n: int, how: str = "Wilson", **about: Any) -> Metric:
    """Make the metric of a share of `count` in `n` cases, with Wilson's interval; `about` are more fields of it."""
    return Metric(count / n, *wilson(count, n), n=n, how=how, **about)


def qualify(metrics: Mapping[str, float | Metric], **of: str | int) -> dict[str, Metric]:
    """Say what metrics belong to: `accuracy` of model="vit" and split="random" becomes `vit/random/accuracy`."""
    prefix = "/".join(str(part) for part in of.values())
    return {f"{prefix}/{key}": replace(m, of={**of, **m.of}) for key, m in _as_metrics(metrics).items()}


def belongs(metric: Metric) -> list[str]:
    """List what a metric belongs to, in the words of people."""
    names = {"model": MODELS, "engine": ENGINES, "split": SPLITS}
    parts = {key: names.get(key, {}).get(str(part), str(part)) for key, part in metric.of.items()}
    return [f"{part} a call" if key == "batch" else part for key, part in parts.items()]


def record(
    run: Run,
    notebook: str,
    metrics: Mapping[str, float | Metric],
    *,
    figures: Mapping[str, str] | None = None,
    artifacts: Iterable[Path] = (),
    model: Path | None = None,
    mlflow_run: str | None = None,
) -> Path:
    """Write `reports/<profile>/metrics/<notebook>.json`, log the same to MLflow, and return the file.

    Args:
        run: the parameters and paths.
        notebook: stem of the notebook, `03_baseline`.
        metrics: key to number; a key is a path, `vit/random/accuracy`.
        figures: name to caption of those for the summary page, which `run.paths.figure(notebook, name)` holds.
        artifacts: files to log to MLflow.
        model: an ONNX file, logged as a model that `mlflow models` serves.
        mlflow_run: id of a run begun by `mlflow_session`, which is continued; None starts one.
    """
    figures, full = dict(figures or {}), _as_metrics(metrics)
    # the folder is an output of the stage, even where nothing was drawn
    run.paths.figure(notebook, "any").parent.mkdir(parents=True, exist_ok=True)
    with mlflow_session(run, notebook, mlflow_run) as run_id:
        mlflow = import_mlflow()
        mlflow.log_metrics(_named(full))
        mlflow.set_tag(
            "mlflow.note.content",
            "\n\n".join(f"**{name.replace('_', ' ')}**: {text}" for name, text in figures.items()),
        )
        for name in figures:
            mlflow.log_artifact(str(run.paths.figure(notebook, name)), "figures")
        for file in artifacts:
            mlflow.log_artifact(str(file))
        if model is not None:
            _log_model(model, f"rice-vit-{run.params.profile}")
    content = {
        "notebook": notebook,
        "profile": run.params.profile,
        "metrics": {key: asdict(metric) for key, metric in full.items()},
        "figures": figures,
        "parameters": run.params.model_dump(mode="json"),
        "provenance": {**provenance(run, notebook), "mlflow_run": run_id},
    }
    write_json(run.paths.metrics(notebook), content)
    return run.paths.metrics(notebook)


@contextlib.contextmanager
def mlflow_session(run: Run, name: str, run_id: str | None = None) -> Iterator[str]:
    """Start an MLflow run with the parameters logged, or continue `run_id` where it still exists; yields its id."""
    mlflow = import_mlflow()
    uri, experiment = run.params.tracking.uri or _URI_FROM_OUTSIDE, run.params.tracking.experiment
    os.environ.pop("MLFLOW_RUN_ID", None)  # of whoever started us: each notebook is a run of its own
    # MLflow makes a new database in many steps: two notebooks that begin at once would do so into each other's
    with locked(run.paths.root):
        if uri is None:
            run.paths.mlruns.mkdir(parents=True, exist_ok=True)
        database, location = run.paths.mlruns / "mlflow.db", (run.paths.mlruns / "artifacts").as_uri()
        mlflow.set_tracking_uri(uri or f"sqlite:///{quote(str(database))}")
        known = mlflow.get_experiment_by_name(experiment)
        if known is None:
            mlflow.create_experiment(experiment, artifact_location=None if uri else location)
        elif uri is None and known.artifact_location != location:
            _move_artifacts(database, known.artifact_location, location)
        experiment_id = mlflow.set_experiment(experiment).experiment_id
    # only where it still exists: mlruns/ may have been deleted since, or the experiment renamed
    known = mlflow.search_runs([experiment_id], f"attributes.run_id = '{run_id}'", output_format="list")
    continued = run_id if run_id and known else None
    title = name.replace("studies/", "study ").replace("_", " ").replace("/", ", ")
    with mlflow.start_run(run_id=continued, run_name=f"{run.params.profile}: {title}") as active:
        if continued is None:
            mlflow.log_params(_flatten(run.params.model_dump(mode="json")))
            origin = {key: str(value) for key, value in _flatten(provenance(run, name)).items()}
            mlflow.set_tags({"profile": run.params.profile, "notebook": name, **origin})
        yield active.info.run_id


@cache
def import_mlflow() -> ModuleType:
    """Import MLflow, through a link where its own path holds a `%`, which Alembic takes for a variable's beginning."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    found = find_spec("mlflow")
    if found and found.origin and "%" in found.origin:
        folder = tempfile.mkdtemp(prefix="rice-mlflow-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        Path(folder, "mlflow").symlink_to(Path(found.origin).parent)
        sys.path.insert(0, folder)
    import mlflow

    return mlflow


def _move_artifacts(database: Path, before: str, now: str) -> None:
    """Write into the database of a project that was moved where its artifacts lie now; MLflow keeps absolute URIs."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for column in ("experiments SET artifact_location", "runs SET artifact_uri"):
            name = column.split()[-1]
            connection.execute(
                f"UPDATE {column} = ? || substr({name}, ?) WHERE substr({name}, 1, ?) = ?",
                (now, len(before) + 1, len(before), before),
            )


def provenance(run: Run, notebook: str = "") -> dict[str, Any]:
    """Describe what makes a number: time (UTC), commit, hash of parameters and manifest, hardware, versions.

    The source is the one that made the manifest: a later `notebook` does not read the parameters that chose it.
    """
    manifest, first = run.paths.manifest, run.paths.metrics(NOTEBOOKS[0])
    data = sha256_file(manifest)[:16] if manifest.is_file() else None
    made = read_json(first)["provenance"] if first.is_file() and notebook != NOTEBOOKS[0] else {}
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(run.paths.root),
        "params": run.params.fingerprint(),
        "data": data,
        "source": made["source"] if data and made.get("data") == data else run.params.data.source,
        "hardware": hardware(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Read the versions of Python and of the `VERSIONED_PACKAGES` that are installed."""
    found = {"python": platform.python_version()}
    for package in VERSIONED_PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def commit(root: Path) -> str:
    """Read the short commit of the checkout, `-dirty` where tracked files differ from it, `unknown` outside git."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hardware() -> str:
    """Describe the machine in one line: the GPU where torch sees one, the CPU and its usable cores."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", info.read_text(errors="replace")) if info.is_file() else None
    cpu = f"{named[1] if named else platform.processor() or platform.machine()}, {cores()} cores"
    with contextlib.suppress(ImportError):
        import torch

        if torch.cuda.is_available():
            return f"{torch.cuda.get_device_name()}; {cpu}"
    return cpu


def _as_metrics(metrics: Mapping[str, float | Metric]) -> dict[str, Metric]:
    return {key: m if isinstance(m, Metric) else Metric(float(m)) for key, m in metrics.items()}


def _named(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Name numbers for MLflow's pages as people do, `ViT/random split/macro F1`; by the key where two are one."""
    named: dict[str, float] = {}
    for key, metric in metrics.items():
        if metric.value is not None:
            unit = f" in {metric.unit.replace('/', ' per ')}" if metric.unit else ""
            name = "/".join([*belongs(metric), metric.name + unit]) if metric.name else key
            name = re.sub(r"[^\w\-. :/]", "", name)
            named[key if name in named else name] = metric.value
    return named


def _log_model(file: Path, name: str) -> None:
    import numpy as np
    import onnx
    from mlflow.models import infer_signature

    model = onnx.load(file)
    given: dict[str, Any] = {}
    made: dict[str, Any] = {}
    for examples, tensors in ((given, model.graph.input), (made, model.graph.output)):
        for tensor in tensors:
            kind = tensor.type.tensor_type
            shape = [axis.dim_value or 1 for axis in kind.shape.dim]
            examples[tensor.name] = np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    import_mlflow().onnx.log_model(
        model,
        name=name,
        signature=infer_signature(given, made),
        input_example=given,
        pip_requirements=["numpy", "onnxruntime"],  # named, because MLflow would run the model to find them
        onnx_execution_providers=["CPUExecutionProvider"],
    )


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested mappings to one level with dotted names."""
    import pandas as pd

    return {str(name): value for name, value in pd.json_normalize(dict(values)).iloc[0].items()}
