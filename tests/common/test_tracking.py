"""What a notebook measured is recorded with its parts, its figures and its provenance; MLflow runs are continued."""

from __future__ import annotations

import json

import mlflow
import pytest

from rice_lib.common.parameters import Params
from rice_lib.common.paths import Paths
from rice_lib.common.run import Run
from rice_lib.common.tracking import Metric, mlflow_session, qualify, record


def run_in(root, experiment: str = "rice") -> Run:
    values = {"profile": "tiny", "data": {"source": "synthetic"}, "tracking": {"experiment": experiment}}
    return Run(Params.model_validate(values), Paths(root, "tiny"))


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Run, str]:
    """A run in whose MLflow database one run was begun and interrupted, and that run's id."""
    run = run_in(tmp_path_factory.mktemp("first"))
    with pytest.raises(KeyboardInterrupt), mlflow_session(run, "04_vit_finetune/random") as run_id:
        raise KeyboardInterrupt
    return run, run_id


def test_metrics_are_qualified_by_what_they_belong_to():
    recall = Metric(0.9, name="recall", of={"variety": "Jasmine"})
    found = qualify({"recall/Jasmine": recall, "errors": 3}, model="vit", split="random")
    assert found["vit/random/recall/Jasmine"].of == {"model": "vit", "split": "random", "variety": "Jasmine"}
    assert found["vit/random/errors"] == Metric(3.0, of={"model": "vit", "split": "random"})


def test_an_interrupted_run_is_continued(first):
    run, run_id = first
    with mlflow_session(run, "04_vit_finetune/random", run_id) as continued:
        assert continued == run_id


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
    metrics = qualify({"accuracy": Metric(0.9, 0.8, 0.95, 40), "ece": Metric(None, how="why")}, model="cnn")
    content = json.loads(record(run, "03_baseline", metrics, figures={"accuracy": "Accuracy"}).read_text())
    assert content["metrics"]["cnn/accuracy"]["of"] == {"model": "cnn"}
    assert content["metrics"]["cnn/ece"]["value"] is None
    assert content["figures"] == {"accuracy": "Accuracy"}
    made_by = content["provenance"]
    assert {"created", "commit", "params", "data", "source", "hardware", "versions"} < set(made_by)
    logged = mlflow.get_run(made_by["mlflow_run"])
    assert logged.data.metrics == {"cnn/accuracy": 0.9}
    assert logged.data.params["split.test_fraction"] == "0.2"
    assert logged.data.tags["source"] == "synthetic"


def test_the_folder_of_figures_is_there_without_figures(first):
    run, _ = first
    record(run, "07_triton_smoke", {"serve/ready_s": 1})
    assert run.paths.figure("07_triton_smoke", "any").parent.is_dir()


def test_a_database_elsewhere_makes_no_folder_here(tmp_path):
    run = run_in(tmp_path / "root")
    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    there = run.params.model_copy(update={"tracking": run.params.tracking.model_copy(update={"uri": uri})})
    with mlflow_session(Run(there, run.paths), "01_eda"):
        assert (tmp_path / "elsewhere.db").is_file()
    assert not run.paths.mlruns.exists()
