"""Imports run downwards: commands > deploy > models > data; predicting from ONNX touches nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.imports import SOURCE, closure, imported

PACKAGE = SOURCE / "rice_lib"

SHARED = {
    "arguments",
    "decision",
    "errors",
    "files",
    "labels",
    "machine",
    "features",
    "params",
    "paths",
    "run",
    "tracking",
}
"""What every room may import."""

ROOMS = {
    # room: what it may import of the others
    "data": {"preprocess", "data"},
    "preprocess": {"preprocess", "colour", "imagefile"},
    "colour": {"colour"},
    "imagefile": {"imagefile"},
    "figures": {"evaluate", "preprocess", "figures"},
    "models": {"data", "preprocess", "evaluate", "models"},
    "evaluate": {"data", "preprocess", "deploy", "evaluate", "reliability"},
    "reliability": {"reliability"},
    "calibrate": {"data", "preprocess", "deploy", "evaluate", "calibrate"},
    "deploy": {"data", "preprocess", "imagefile", "evaluate", "models", "inputs", "results", "deploy"},
    "relevance": {"preprocess", "models", "deploy", "relevance"},
    "report": {"report"},
    "tray": {"preprocess", "inputs", "results", "deploy", "infer", "tray"},
}
TRAINING = ("rice_lib.models.finetune", "rice_lib.models.baseline", "rice_lib.models.augment")


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def modules() -> list[str]:
    files = sorted(PACKAGE.rglob("*.py"))
    return [".".join(f.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__") for f in files]


def file_of(module: str) -> Path:
    place = SOURCE.joinpath(*module.split("."))
    return place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"


@pytest.mark.parametrize("module", [m for m in modules() if room_of(m) in ROOMS])
def test_a_room_imports_downwards(module):
    room = room_of(module)
    used = {room_of(name) for name in imported(file_of(module).read_text())} - {""}
    assert used - SHARED - ROOMS[room] == set(), f"{module} reaches upwards"


@pytest.mark.parametrize("module", [m for m in modules() if room_of(m) in SHARED])
def test_what_everyone_imports_imports_no_room(module):
    used = {room_of(name) for name in imported(file_of(module).read_text())} - {""}
    assert used <= SHARED


@pytest.mark.parametrize("module", [m for m in modules() if room_of(m) == "deploy"])
def test_deployment_imports_no_training(module):
    assert not closure(file_of(module).read_text()) & set(TRAINING)


@pytest.mark.parametrize(
    "module", ["rice_lib.infer", "rice_lib.cli.explain", "rice_lib.backends.predictor", "rice_lib.contract.decode"]
)
def test_prediction_imports_nothing_heavy(module):
    heavy = ("torch", "pandas", "mlflow", "pydantic", "yaml", "matplotlib", "sklearn", "transformers", "scipy", "cv2")
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
