"""What every test module shares: real images only where they are named, and the tiny profile executed once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from rice_lib.common.files import read_json
from rice_lib.common.paths import NOTEBOOKS, Paths
from rice_lib.common.tracking import Metric

ROOT = Path(__file__).parents[1]

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# the same examples in every run: a test fails for everyone or for no one; HYPOTHESIS_PROFILE=default looks further
settings.register_profile("fixed", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on real images run where RICE_DATA names some; the tests that take long come last."""
    if not os.environ.get("RICE_DATA"):
        skip = pytest.mark.skip(reason="RICE_DATA names no real images")
        for item in items:
            if item.get_closest_marker("real"):
                item.add_marker(skip)
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@dataclass(frozen=True)
class Pipeline:
    """A checkout in which the seven notebooks ran under the profile `tiny`."""

    root: Path
    paths: Paths

    def metrics(self, notebook: str) -> dict[str, Metric]:
        """What a notebook recorded."""
        content = read_json(self.paths.metrics(notebook))
        return {key: Metric(**metric) for key, metric in content["metrics"].items()}


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The seven notebooks, executed in order on the tiny profile, in a checkout of their own: about two minutes."""
    return run_notebooks(tmp_path_factory.mktemp("pipeline"), "tiny")


@pytest.fixture(scope="session")
def notebooks_on(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pipeline]:
    """A function that executes notebooks under a profile with `section.key=value` set, in a checkout of their own."""
    return lambda profile, *settings: run_notebooks(tmp_path_factory.mktemp(profile), profile, settings)


def run_notebooks(root: Path, profile: str, settings: Sequence[str] = ()) -> Pipeline:
    for name in ("notebooks", "params", "docs", "data/samples", "models/rice-vit-tiny"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    (root / "reports").mkdir()
    for name in ("_quarto.yml", "reports/index.qmd", "reports/styles.css"):
        shutil.copy(ROOT / name, root / name)
    environment = {**os.environ, "RICE_ROOT": str(root)}
    environment.setdefault("RICE_SERVE_ENV", str(ROOT / ".venv-serve"))
    environment.pop("RICE_DATA", None)
    steps = [["set-params", *settings]] * bool(settings) + [["stage", notebook] for notebook in NOTEBOOKS]
    for step in steps:
        command = [sys.executable, "-m", "rice_lib", *step, "--profile", profile]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(step)} failed\n{done.stdout}\n{done.stderr}"
    return Pipeline(root, Paths(root, profile))
