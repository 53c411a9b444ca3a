"""Rice of one's own, as a new user brings it: a folder of any classes, and photographs of trays."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.data import write
from support.own_rice import KINDS, generated, write_trays

from rice_lib.backends.open import open_predictor
from rice_lib.common.files import read_json
from rice_lib.common.paths import NOTEBOOKS
from rice_lib.data.synthetic import jpeg

pytestmark = pytest.mark.slow

CLASSES = {"Riz rond": "Karacadag", "Basmati": "Basmati", "Basmati 370": "Jasmine", "Brisé 🍚": "Ipsala"}


def test_a_folder_of_any_classes_goes_the_whole_way(notebooks_on, tmp_path):
    for name, drawn in CLASSES.items():
        write(tmp_path / "mine", {f"{name}/img{n}.jpg": jpeg(drawn, n, 1000, 83) for n in range(1, 31)})
    found = notebooks_on("tiny", "data.source=folder", f"data.path={tmp_path / 'mine'}")
    names = sorted(CLASSES)
    assert list(read_json(found.paths.labels)["labels2id"]) == names
    assert "bear no number" in found.metrics("02_split")["session/test"].how
    assert {f"shape/random/recall/{name}" for name in names} <= set(found.metrics("03_baseline"))
    assert found.metrics("07_triton_smoke")["serve/parity_max_abs_b1"].value is not None
    assert all(found.paths.notebook(name).is_file() for name in NOTEBOOKS)
    with open_predictor(found.paths.onnx / "model.onnx") as model:
        assert list(model.labels) == names
    labels = [*found.paths.repository.rglob("labels.txt")]
    assert labels
    assert {file.read_text(encoding="utf-8") for file in labels} == {"".join(f"{name}\n" for name in names)}


def test_photographs_of_own_trays_become_a_model_that_knows_new_ones(notebooks_on, tmp_path):
    trays, new = tmp_path / "trays", tmp_path / "new"
    write_trays(trays, generated, trays=5, grains=12, shape=(900, 1200))
    write_trays(new, generated, trays=1, grains=12, start=5, shape=(900, 1200))
    found = notebooks_on("mine", f"data.path={trays}")
    assert found.metrics("01_eda")["usable"].value >= 0.95 * 5 * 12 * len(KINDS)
    command = [sys.executable, "-m", "rice_lib", "infer", "--grains", "--format", "jsonl"]
    command += ["--model", str(found.paths.onnx / "model.onnx"), str(new)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    records = [record for record in map(json.loads, done.stdout.splitlines()) if "grain" in record]
    assert len(records) >= 0.95 * 12 * len(KINDS)
    correct = [f"/{record['label']}/" in record["path"] for record in records]
    assert sum(correct) >= 0.9 * len(records)
