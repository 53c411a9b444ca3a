"""The pipeline, once: the seven notebooks in order on the tiny profile, and the report of what they recorded.

The images are few and the training is short, so accuracies are held to loose bounds: the tests show that each notebook
measures what it says, not how good the models are.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys

import nbformat
import pytest

from rice_lib.common.files import read_json
from rice_lib.common.paths import NOTEBOOKS, STUDIES

pytestmark = pytest.mark.slow

IMAGES = 5 * 40
CHANCE = 1 / 5


def test_every_metric_is_finite_or_says_why_not(pipeline):
    for notebook in NOTEBOOKS:
        metrics = pipeline.metrics(notebook)
        assert metrics, notebook
        for name, metric in metrics.items():
            assert metric.how if metric.value is None else math.isfinite(metric.value), f"{notebook}: {name}"
            if metric.low is not None and metric.high is not None and metric.value is not None:
                assert metric.low <= metric.value <= metric.high, f"{notebook}: {name}"


def test_every_number_has_its_provenance(pipeline):
    provenances = [read_json(pipeline.paths.metrics(notebook))["provenance"] for notebook in NOTEBOOKS]
    assert {p["source"] for p in provenances} == {"synthetic"}
    assert len({p["data"] for p in provenances}) == 1
    assert len({p["params"] for p in provenances}) == 1
    assert len({p["mlflow_run"] for p in provenances}) == len(NOTEBOOKS)


def test_images_and_split(pipeline):
    eda, split = pipeline.metrics("01_eda"), pipeline.metrics("02_split")
    assert eda["images"].value == IMAGES
    assert eda["unusable"].value == 0
    sizes = [split[f"random/{part}"].value for part in ("train", "validation", "test")]
    assert sizes == pytest.approx([128, 32, 40], abs=2)
    assert sum(sizes) == IMAGES
    assert split["random/torn_groups"].value == 0


def test_models_classify_better_than_chance(pipeline):
    baseline, vit = pipeline.metrics("03_baseline"), pipeline.metrics("04_vit_finetune")
    for scheme in ("random", "session"):
        assert baseline[f"shape/{scheme}/accuracy"].value > 0.5
        assert baseline[f"cnn/{scheme}/accuracy"].value > 0.5
        n = vit[f"vit/{scheme}/accuracy"].n
        wrong = vit[f"vit/{scheme}/errors"].value
        assert vit[f"vit/{scheme}/accuracy"].value == pytest.approx(1 - wrong / n)
    assert vit["vit/random/accuracy"].value > CHANCE
    for metrics, model in ((baseline, "shape"), (baseline, "cnn"), (vit, "vit")):
        assert metrics[f"{model}/camera/accuracy"].n == vit["vit/random/accuracy"].n
    assert 0 <= vit["vit/random/mcnemar_cnn"].value <= 1


def test_exported_model_is_the_trained_one(pipeline):
    export = pipeline.metrics("05_export")
    for batch in ("b1", "b3", "bN"):
        assert export[f"export/parity_max_abs_{batch}"].value < 1e-3
        assert export[f"export/labels_changed_{batch}"].value == 0
    assert export["export/half_size_mb"].value < export["export/size_mb"].value


def test_benchmark_measures_or_says_why_not(pipeline):
    benchmark = pipeline.metrics("06_trt_benchmark")
    for engine in ("torch_eager", "onnx_float32"):
        assert benchmark[f"benchmark/{engine}/b1/images_per_s"].value > 0
        assert benchmark[f"benchmark/{engine}/labels_equal"].value == 1
    assert any("tensorrt" in name for name in benchmark)


def test_server_serves_the_exported_model(pipeline):
    serving = pipeline.metrics("07_triton_smoke")
    for batch in ("b1", "b3", "bmax"):
        metric = serving[f"serve/parity_max_abs_{batch}"]
        assert metric.value is not None, metric.how
        assert metric.value < 1e-3


def test_executed_notebooks_hold_no_error(pipeline):
    for notebook in NOTEBOOKS:
        executed = nbformat.read(pipeline.paths.notebook(notebook), as_version=4)
        code = [cell for cell in executed.cells if cell.cell_type == "code" and cell.source.strip()]
        assert all(cell.execution_count for cell in code), notebook
        outputs = [out for cell in code for out in cell.outputs]
        assert not [out for out in outputs if out.output_type == "error"], notebook
        assert not [out for out in outputs if "text/html" in out.get("data", {})], (
            f"{notebook}: loads scripts in Quarto"
        )
        assert not [out for out in outputs if out.get("name") == "stdout"], notebook


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_runs_where_it_is_enabled(pipeline, study):
    environment = {**os.environ, "RICE_ROOT": str(pipeline.root)}
    command = [sys.executable, "-m", "rice_lib", "stage", study, "--profile", "tiny"]
    command += ["--set", "study.enabled=true"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mathdefault" not in pipeline.paths.notebook(study).read_text(), "a logarithmic axis in TeX"
    for name, metric in pipeline.metrics(study).items():
        assert 0 <= metric.value <= (math.inf if metric.unit else 1), name
        assert metric.low is None or metric.low <= metric.value <= metric.high, name


def test_report_of_the_run(pipeline):
    environment = {**os.environ, "RICE_ROOT": str(pipeline.root)}
    command = [sys.executable, "-m", "rice_lib", "report", "--profile", "tiny"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    site = pipeline.paths.report / "site"
    index = (site / "index.html").read_text()
    assert "Generated images, not photographs" in index
    assert f"{pipeline.metrics('04_vit_finetune')['vit/random/accuracy'].value:.4f}" in index
    for notebook in (*NOTEBOOKS, *STUDIES):
        page = (site / "pages" / f"{notebook}.html").read_text()
        text = re.sub(
            r"<[^>]+>", " ", re.sub(r"data:image/[^\"']*|<(style|details).*?</\1>", "", page, flags=re.DOTALL)
        )
        assert not re.search(r"\b[0-9a-f]{32}\b", text), f"{notebook}: a run's id in full"
        assert not re.search(r"\b\w+/(random|session)/\w+", text), f"{notebook}: a metric's key"
        assert 'alt="Image"' not in page
        assert f"pages/{notebook}.html" in index
