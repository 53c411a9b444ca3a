"""Recording what a notebook measured: one JSON file beside the report, and one MLflow run.

The JSON is what the report and DVC read; MLflow holds the same numbers with their curves and artifacts. Each number
travels with its provenance: the commit, the parameters, the data and the machine that made it.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rice_lib.common.files import read_json, sha256_file, write_json
from rice_lib.common.machine import cores
from rice_lib.common.paths import Paths
from rice_lib.common.run import Run

VERSIONED_PACKAGES = (
    "torch",
    "transformers",
    "timm",
    "scikit-learn",
    "numpy",
    "pillow",
    "onnxruntime",
    "tensorrt",
)


@dataclass(frozen=True)
class Metric:
    """A measured number: its value, its 95 % interval and the number of cases where it has them, and how it was
    measured. `value` None means "not measured here", and `how` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str = ""
    how: str = ""


def record(
    run: Run,
    notebook: str,
    metrics: Mapping[str, float | Metric],
    artifacts: Mapping[str, Path] | None = None,
    mlflow_run: str | None = None,
) -> Path:
    """Write `reports/<profile>/metrics/<notebook>.json` and log the same to MLflow.

    Args:
        run: whose parameters and paths.
        notebook: stem of the notebook, `03_baseline`.
        metrics: name to number; names are `group/name`, as `vit/random/accuracy`.
        artifacts: name to file (figures, models' manifests) to log with the run.
        mlflow_run: id of a run begun by `mlflow_session` to go on with; None begins one.

    Returns:
        The JSON file: `{"notebook", "profile", "metrics": {name: Metric}, "provenance": {...}}`.
    """
    full = {name: m if isinstance(m, Metric) else Metric(float(m)) for name, m in metrics.items()}
    with mlflow_session(run, notebook, mlflow_run) as run_id:
        import mlflow

        mlflow.log_metrics({name: m.value for name, m in full.items() if m.value is not None})
        for file in (artifacts or {}).values():
            mlflow.log_artifact(str(file))
    target = run.paths.metrics(notebook)
    write_json(
        target,
        {
            "notebook": notebook,
            "profile": run.params.profile,
            "metrics": {name: asdict(m) for name, m in full.items()},
            "provenance": {**provenance(run), "mlflow_run": run_id},
        },
    )
    return target


def read_metrics(paths: Paths, notebook: str) -> dict[str, Metric]:
    """The numbers a notebook recorded; raises FileNotFoundError where it has not run."""
    return {name: Metric(**m) for name, m in read_json(paths.metrics(notebook))["metrics"].items()}


@contextmanager
def mlflow_session(run: Run, name: str, run_id: str | None = None) -> Iterator[str]:
    """An MLflow run (begun, or gone on with where `run_id` is given) with the parameters logged; yields its id."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import mlflow

    mlflow.set_tracking_uri(tracking_uri(run))
    if mlflow.get_experiment_by_name(run.params.tracking.experiment) is None:
        local = run.params.tracking.uri is None
        location = (run.paths.mlruns / "artifacts").as_uri() if local else None
        mlflow.create_experiment(run.params.tracking.experiment, artifact_location=location)
    mlflow.set_experiment(run.params.tracking.experiment)
    with mlflow.start_run(run_id=run_id, run_name=f"{run.params.profile}/{name}") as active:
        if run_id is None:
            mlflow.log_params(flatten(run.params.model_dump(mode="json")))
            mlflow.set_tags({"profile": run.params.profile, "notebook": name, **_flat_strings(provenance(run))})
        yield active.info.run_id


def tracking_uri(run: Run) -> str:
    """The server of the parameters, or an absolute SQLite URI in `mlruns/` (whose folder is made)."""
    if run.params.tracking.uri:
        return run.params.tracking.uri
    run.paths.mlruns.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{run.paths.mlruns / 'mlflow.db'}"


def provenance(run: Run) -> dict[str, Any]:
    """What made a number: time (UTC), commit, parameters' and manifest's hash, hardware, versions."""
    manifest = run.paths.manifest
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(run.paths.root),
        "params": run.params.fingerprint(),
        "data": sha256_file(manifest)[:16] if manifest.is_file() else None,
        "source": run.params.data.source,
        "hardware": hardware(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Python and those of `VERSIONED_PACKAGES` that are installed, with their versions."""
    return {name: v for name in ("python", *VERSIONED_PACKAGES) if (v := _version(name))}


def commit(root: Path) -> str:
    """Short commit of the checkout, `-dirty` where tracked files differ from it, `unknown` outside git."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hardware() -> str:
    """The machine in a line: the GPU where torch sees one, and the CPU with its usable cores."""
    cpu = f"{_cpu_model()}, {cores()} cores"
    try:
        import torch
    except ImportError:
        return cpu
    return f"{torch.cuda.get_device_name()}; {cpu}" if torch.cuda.is_available() else cpu


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _flat_strings(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in flatten(values).items()}


def _version(package: str) -> str | None:
    if package == "python":
        return platform.python_version()
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
