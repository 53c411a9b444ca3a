"""A checkout whose seven notebooks have run: recorded metrics and executed notebooks that are made up here."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from rice_lib.common.files import write_json
from rice_lib.common.paths import NOTEBOOKS, Paths
from rice_lib.common.tracking import Metric

ROOT = Path(__file__).parents[2]
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n a picture").decode()
RUN = "5a0ec1f2b3c44d5e8f90123456789abc"


def score(model, split, name, *values, **more):
    return Metric(*values, name=name, of={"model": model, "split": split}, **more)


def point(engine, batch, name, value, **more):
    return Metric(value, name=name, of={"engine": engine, "batch": batch}, **more)


METRICS = {
    "01_eda": {"images": Metric(1200)},
    "02_split": {"naive/torn_groups": Metric(12, name="groups divided", how="same seed, duplicates ignored")},
    "03_baseline": {
        "cnn/random/accuracy": score("cnn", "random", "accuracy", 0.9583, 0.925, 0.977, 240, cell=3),
        "cnn/session/accuracy": score("cnn", "session", "accuracy", 0.8292, 0.776, 0.872, 240),
        "cnn/random/errors": score("cnn", "random", "misclassified", 10, n=240, cell=4),
    },
    "04_vit_finetune": {
        "vit/random/accuracy": score("vit", "random", "accuracy", 0.9875, 0.964, 0.9957, 240),
        "vit/session/accuracy": score("vit", "session", "accuracy", None, how="not measured here: no image numbers"),
    },
    "05_export": {"export/parity_max_abs_b1": Metric(2.1e-6, n=1, how="torch against <ONNX> Runtime")},
    "06_trt_benchmark": {
        "torch/b1/images_per_s": point("torch_eager", 1, "throughput", 52.3, unit="images/s"),
        "torch/b1/p50_ms": point("torch_eager", 1, "median latency", 19.1, unit="ms"),
        "torch/b8/images_per_s": point("torch_eager", 8, "throughput", 71.0, unit="images/s"),
        "trt/b1/images_per_s": point("tensorrt_float16", 1, "throughput", None, how="not measured here: no NVIDIA GPU"),
        "trt/b8/p50_ms": point("tensorrt_float16", 8, "median latency", None, how="not measured here: no NVIDIA GPU"),
        "torch/peak_rss_mb": Metric(812.4, unit="MB", name="peak memory", of={"engine": "torch_eager"}),
    },
    "07_triton_smoke": {"serve/ready_s": Metric(2.1, unit="s", how="start to model ready")},
}


def provenance(**changes):
    return {
        "created": "2026-01-02T03:04:05+00:00",
        "commit": "3bf06de12ab4",
        "params": "0123456789abcdef",
        "data": "fedcba9876543210",
        "source": "synthetic",
        "hardware": "A CPU, 2 cores",
        "versions": {"python": "3.11.7", "torch": "2.14.1"},
        "mlflow_run": RUN,
        **changes,
    }


def write_notebook(paths: Paths, name: str) -> None:
    cells = [
        new_markdown_cell(f"# {name[:2]} Title of {name}\n\nWhat it finds out.\n\n## A section"),
        new_code_cell("profile = None", metadata={"tags": ["parameters"]}, execution_count=1),
        new_code_cell('profile = "tiny"', metadata={"tags": ["injected-parameters"]}, execution_count=2),
        new_code_cell(
            f'curves = style.save(fig, paths.figure("{name}", f"{{curves}}"))',
            metadata={"fig-alt": "Curves of accuracy", "code-summary": "Imports"},
            outputs=[
                new_output("stream", name="stderr", text="some library warns"),
                new_output("stream", name="stdout", text="said on stdout"),
                new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"}),
            ],
            execution_count=3,
        ),
        new_code_cell("record(run)", metadata={"tags": ["remove-cell"]}, execution_count=4),
    ]
    paths.notebook(name).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), paths.notebook(name))


def run_all(root: Path) -> Paths:
    """A checkout whose seven notebooks have run under `tiny`."""
    shutil.copytree(ROOT / "params", root / "params")
    shutil.copytree(ROOT / "docs", root / "docs")
    (root / "reports").mkdir()
    for name in ("_quarto.yml", "reports/index.qmd", "reports/styles.css"):
        shutil.copy(ROOT / name, root / name)
    paths = Paths(root, "tiny")
    for name in NOTEBOOKS:
        record(paths, name)
        write_notebook(paths, name)
    return paths


def record(paths: Paths, name: str, **changes) -> None:
    metrics = {key: metric.__dict__ for key, metric in METRICS[name].items()}
    figures = {"curves": f"Curves of <{name}>"}
    content = {"notebook": name, "profile": "tiny", "metrics": metrics, "figures": figures}
    write_json(paths.metrics(name), {**content, "provenance": provenance(**changes)})
    paths.figure(name, "curves").parent.mkdir(parents=True, exist_ok=True)
    paths.figure(name, "curves").write_text(f"<svg>{name}</svg>")
