"""Two runs on one page: what differs, by which test, and pictures of what only one gets right."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rice_lib.cli.report import main
from rice_lib.common.errors import RiceError
from rice_lib.common.files import write_json
from rice_lib.common.paths import Paths
from rice_lib.common.tracking import Metric
from rice_lib.models.metrics import write_predictions
from rice_lib.report import compare

ROOT = Path(__file__).parents[2]
TEST = SimpleNamespace(paths=[f"{n}.jpg" for n in range(40)], labels=np.arange(40) % 5, classes=tuple("abcde"))


def write_run(folder: Path, correct: int, n: int, milliseconds: float, epochs: int) -> None:
    accuracy = Metric(correct / n, 0.9 * correct / n, 1, n=n, name="accuracy", of={"model": "vit", "split": "random"})
    speed = Metric(milliseconds, unit="ms", name="median latency", of={"engine": "onnx_float32", "batch": 1})
    provenance = {"commit": "abc", "data": "d1", "source": "zip", "created": "2026", "hardware": "a CPU"}
    content = {
        "notebook": "04_vit_finetune",
        "metrics": {"vit/random/accuracy": asdict(accuracy), "onnx/b1/p50_ms": asdict(speed)},
        "figures": {},
        "parameters": {"seed": 83, "finetune": {"epochs": epochs, "schemes": ["random"]}},
        "provenance": provenance,
    }
    write_json(folder / "metrics" / "04_vit_finetune.json", content)


def write_scores(folder: Path, wrong: list[int]) -> None:
    scores = np.full((40, 5), 0.05)
    chosen = TEST.labels.copy()
    chosen[wrong] = (chosen[wrong] + 1) % 5
    scores[np.arange(40), chosen] = 0.8
    write_predictions(folder / "predictions" / "vit" / "random.csv", TEST, scores)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("RICE_ROOT", str(tmp_path))
    for name in ("params", "notebooks"):
        (tmp_path / name).mkdir()
    (tmp_path / "reports").mkdir()
    shutil.copy(ROOT / "reports" / "styles.css", tmp_path / "reports")
    write_run(tmp_path / "reports" / "smoke", 36, 40, 2.0, epochs=4)
    write_run(tmp_path / "reports" / "mine", 38, 40, 1.0, epochs=8)
    return tmp_path


def page(root: Path, *names: str) -> str:
    assert main(["--compare", *names]) == 0
    (file,) = (root / "reports" / "compare").glob("*/index.html")
    return file.read_text()


def test_parameters_and_costs_that_differ_are_shown(root, capsys):
    text = page(root, "smoke", "mine")
    assert capsys.readouterr().out == "reports/compare/smoke-mine/index.html\n"
    assert "finetune.epochs" in text
    assert "seed" not in text[text.index("Parameters that differ") : text.index("Data, code")]
    speed = text[text.index('id="Speed-and-cost"') :]
    assert "ONNX Runtime, float32 · 1 a call · median latency" in speed
    assert "0.5" in speed
    assert "no predictions of both" in text


def test_other_test_images_are_compared_by_intervals(root):
    # Newcombe by hand: 5 + 100 sqrt((0.95 - 0.855)^2 + (1 - 0.9)^2) either way of ends that differ
    assert "+5.00 points [\u22128.79" in page(root, "smoke", "mine").replace("[-", "[\u2212")


def test_the_same_test_images_are_compared_by_mcnemar_and_shown(root, monkeypatch):
    write_scores(root / "reports" / "smoke", [0, 1, 2, 3])
    write_scores(root / "reports" / "mine", [0, 9])
    pixels = SimpleNamespace(paths=TEST.paths[::-1], batch=lambda rows: np.zeros((len(rows), 8, 8, 3), np.uint8) + 9)
    monkeypatch.setattr(compare, "open_examples", lambda *_: pixels)
    text = page(root, "smoke", "mine")
    # one-sided errors 3 and 1: p = 2 (1 + 4) / 16
    assert "3 wrong in the first only, 1 in the second only" in text
    assert "p: 0.6250" in text
    assert "3 images are right in mine and wrong in smoke" in text
    assert "1 images are right in smoke and wrong in mine" in text
    assert (root / "reports/compare/smoke-mine/random_smoke.jpg").is_file()
    assert 'src="random_smoke.jpg"' in text


def test_images_that_are_not_here_are_said_to_be_missing(root):
    write_scores(root / "reports" / "smoke", [0])
    write_scores(root / "reports" / "mine", [1])
    assert "The images are not here" in page(root, "smoke", "mine")


def test_a_folder_of_metrics_is_a_run(root):
    shutil.copytree(root / "reports" / "mine" / "metrics", root / "published")
    assert "+5.00 points" in page(root, "smoke", str(root / "published"))


def test_a_run_that_is_not_there_is_one_line(root):
    with pytest.raises(RiceError, match="nothing to report yet"):
        main(["--compare", "smoke", "nowhere"])
    assert not Paths(root, "nowhere").report.exists()
