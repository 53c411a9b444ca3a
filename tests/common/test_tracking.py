"""What a notebook measured is recorded with its parts, its figures and its provenance; MLflow runs are continued."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from rice_lib.common import tracking
from rice_lib.common.parameters import DataParams, Params
from rice_lib.common.paths import Paths
from rice_lib.common.run import Run
from rice_lib.common.tracking import Metric, import_mlflow, mlflow_session, provenance, qualify, record

mlflow = import_mlflow()


def run_in(root, experiment: str = "rice") -> Run:
    values = {"profile": "tiny", "data": {"source": "synthetic"}, "tracking": {"experiment": experiment}}
    return Run(Params.model_validate(values), Paths(root, "tiny"))


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Run, str]:
    """A run in whose MLflow database one run was begun and interrupted, and that run's id."""
    run = run_in(tmp_path_factory.mktemp("Mein Reis é 米 #1 (a&b) 100%25 ?b=c"))
    with pytest.raises(KeyboardInterrupt), mlflow_session(run, "04_vit_finetune/random") as run_id:
        raise KeyboardInterrupt
    return run, run_id


def test_metrics_are_qualified_by_what_they_belong_to():
    recall = Metric(0.9, name="recall", of={"variety": "Jasmine"})
    found = qualify({"recall/Jasmine": recall, "errors": 3}, model="vit", split="random")
    assert found["vit/random/recall/Jasmine"].of == {"model": "vit", "split": "random", "variety": "Jasmine"}
    assert found["vit/random/errors"] == Metric(3.0, of={"model": "vit", "split": "random"})


def test_the_source_is_the_one_that_made_the_manifest(tmp_path):
    later = run_in(tmp_path)
    params = later.params.model_copy(update={"data": DataParams(source="folder", path="/rice")})
    later.paths.manifest.parent.mkdir(parents=True)
    later.paths.manifest.write_text("path\n")
    record(Run(params, later.paths), "01_eda", {})
    assert provenance(later)["source"] == "folder"
    assert provenance(later, "01_eda")["source"] == "synthetic", "the first notebook makes the manifest again"
    later.paths.manifest.write_text("path\nother.jpg\n")
    assert provenance(later)["source"] == "synthetic"


def test_an_interrupted_run_is_continued(first):
    run, run_id = first
    with mlflow_session(run, "04_vit_finetune/random", run_id) as continued:
        assert continued == run_id


def test_the_database_lies_in_the_project_whatever_its_folder_is_called(first):
    run, _ = first
    assert (run.paths.root / "mlruns/mlflow.db").stat().st_size > 0


def test_a_moved_project_keeps_its_runs_and_its_artifacts(first, tmp_path):
    run, _ = first
    (tmp_path / "note.txt").write_text("a note")
    with mlflow_session(run, "before") as before:
        mlflow.log_artifact(str(tmp_path / "note.txt"))
    moved = run_in(tmp_path / "moved")
    shutil.copytree(run.paths.root, moved.paths.root)
    with mlflow_session(moved, "after") as after:
        mlflow.log_artifact(str(tmp_path / "note.txt"))
    for run_id in (before, after):
        place = moved.paths.mlruns / "artifacts" / run_id / "artifacts/note.txt"
        assert place.read_text() == "a note"
        assert mlflow.get_run(run_id).info.artifact_uri == place.parent.as_uri()
    assert not (run.paths.mlruns / "artifacts" / after).exists()


_SESSION = """
import sys
from pathlib import Path
from rice_lib.common.parameters import Params
from rice_lib.common.paths import Paths
from rice_lib.common.run import Run
from rice_lib.common.tracking import mlflow_session
run = Run(Params.model_validate({"profile": "tiny", "data": {"source": "synthetic"}}), Paths(Path(sys.argv[1]), "tiny"))
with mlflow_session(run, "01_eda") as run_id:
    print(run_id)
"""


def session_elsewhere(root, **variables) -> subprocess.Popen:
    """Begin a session in a process of its own."""
    command = [sys.executable, "-c", _SESSION, str(root)]
    environment = os.environ | variables
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_an_environment_in_a_folder_with_a_percent_sign(first, tmp_path):
    """Alembic takes the path of MLflow's migrations for text with variables."""
    run, _ = first
    (tmp_path / "100%").mkdir()
    (tmp_path / "100%/mlflow").symlink_to(os.path.dirname(mlflow.__file__))
    path = os.pathsep.join([str(tmp_path / "100%"), *filter(None, sys.path)])
    with session_elsewhere(run.paths.root, PYTHONPATH=path, TMPDIR=str(tmp_path), MLFLOW_RUN_ID="of another") as done:
        out, errors = done.communicate(timeout=120)
    assert done.returncode == 0, errors
    assert mlflow.get_run(out.strip()).data.tags["notebook"] == "01_eda"
    assert [path.name for path in tmp_path.iterdir()] == ["100%"]


@pytest.mark.slow
def test_several_first_sessions_at_once(tmp_path):
    sessions = [session_elsewhere(tmp_path) for _ in range(3)]
    for each in sessions:
        with each:
            errors = each.communicate(timeout=300)[1]
        assert each.returncode == 0, errors


def test_a_run_that_is_gone_is_not_continued(first, tmp_path):
    run, run_id = first
    # as where mlruns/ was deleted between an interruption of a training and its resumption
    with mlflow_session(run_in(tmp_path), "04_vit_finetune/random", run_id) as fresh:
        assert fresh != run_id
    with mlflow_session(run_in(run.paths.root, "renamed"), "04_vit_finetune/random", run_id) as fresh:
        assert fresh != run_id
    with mlflow_session(run, "deleted") as deleted:
        pass
    mlflow.delete_run(deleted)
    with mlflow_session(run, "deleted", deleted) as fresh:
        assert fresh != deleted


def test_numbers_and_figures_are_recorded_with_their_provenance(first):
    run, _ = first
    figure = run.paths.figure("03_baseline", "accuracy")
    figure.parent.mkdir(parents=True)
    figure.write_bytes(b"a figure")
    accuracy = Metric(0.9, 0.8, 0.95, 40, name="accuracy")
    metrics = qualify({"accuracy": accuracy, "ece": Metric(None, how="why")}, model="cnn")
    content = json.loads(record(run, "03_baseline", metrics, figures={"accuracy": "Accuracy"}).read_text())
    assert content["metrics"]["cnn/accuracy"]["of"] == {"model": "cnn"}
    assert content["metrics"]["cnn/ece"]["value"] is None
    assert content["figures"] == {"accuracy": "Accuracy"}
    made_by = content["provenance"]
    assert {"created", "commit", "params", "data", "source", "hardware", "versions"} < set(made_by)
    logged = mlflow.get_run(made_by["mlflow_run"])
    assert logged.info.run_name == "tiny: 03 baseline"
    assert logged.data.metrics == {"Frozen CNN/accuracy": 0.9}
    assert logged.data.tags["mlflow.note.content"] == "**accuracy**: Accuracy"
    assert content["parameters"]["split"]["test_fraction"] == 0.2
    assert logged.data.params["split.test_fraction"] == "0.2"
    assert logged.data.tags["source"] == "synthetic"


def test_the_folder_of_figures_is_there_without_figures(first):
    run, _ = first
    content = json.loads(record(run, "studies/05_leakage", {"serve/ready_s": 1}).read_text())
    assert mlflow.get_run(content["provenance"]["mlflow_run"]).info.run_name == "tiny: study 05 leakage"
    assert run.paths.figure("studies/05_leakage", "any").parent.is_dir()


def test_a_database_elsewhere_makes_no_folder_here(tmp_path, monkeypatch):
    (tmp_path / "root").mkdir()
    run = run_in(tmp_path / "root")
    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    there = run.params.model_copy(update={"tracking": run.params.tracking.model_copy(update={"uri": uri})})
    with mlflow_session(Run(there, run.paths), "01_eda") as named:
        assert (tmp_path / "elsewhere.db").is_file()
    monkeypatch.setattr(tracking, "_URI_FROM_OUTSIDE", uri)  # as MLFLOW_TRACKING_URI says
    with mlflow_session(run, "01_eda") as from_outside:
        assert mlflow.get_run(named).info.experiment_id == mlflow.get_run(from_outside).info.experiment_id
    assert not run.paths.mlruns.exists()


def test_a_metric_knows_the_cell_that_made_it():
    assert Metric(1.0).cell is None, "outside a notebook"
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"hist_file": ":memory:"}}))
    try:
        shell.user_ns.update(Metric=Metric, qualify=qualify)
        first, second = (
            shell.run_cell(cell, store_history=True)
            for cell in ("made = Metric(1.0)", 'found = qualify({"old": made, "new": 1.0}, model="vit")')
        )
        found = shell.user_ns["found"]
    finally:
        InteractiveShell.clear_instance()
    numbers = first.execution_count, second.execution_count
    assert (found["vit/old"].cell, found["vit/new"].cell) == numbers, "as In [n] shows them"
    assert numbers[0] < numbers[1]
