"""The order of rooms: imports run strictly downwards, in no circle, and prediction imports nothing heavy.

All read off the syntax tree: imports within functions count, those for type checking do not.
"""

from __future__ import annotations

import sys

import pytest
from support.imports import closure, imports_of, module_file, modules, names_imported, room_of

ROOMS = (
    "infer",
    "__main__",
    "cli",
    "report",
    "serving",
    "export",
    "explain",
    "predict",
    "models",
    "data",
    "tray",
    "backends",
    "contract",
    "common",
)
"""A room imports those below it; contract alone imports nothing of ours."""

HEAVY = {
    "cv2",
    "matplotlib",
    "mlflow",
    "pandas",
    "pydantic",
    "scipy",
    "seaborn",
    "sklearn",
    "tensorrt",
    "timm",
    "torch",
    "torchvision",
    "transformers",
    "yaml",
}

OF_RICE_INFER = (
    "rice_lib.infer",
    "rice_lib.predict.pipeline",
    "rice_lib.backends.open",
    "rice_lib.backends.onnx",
    "rice_lib.contract.decode",
    "rice_lib.cli.infer_options",
)


def top_packages(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_downwards(room):
    below = {"contract"} if room == "contract" else {*ROOMS[ROOMS.index(room) :]}
    climbing = {
        module: up
        for module in modules()
        if room_of(module) == room and (up := {m for m in imports_of(module) if room_of(m) not in {*below, ""}})
    }
    assert climbing == {}


def test_every_module_has_its_room():
    assert {room_of(module) for module in modules()} - {""} == {*ROOMS}


def test_no_module_imports_itself_by_way_of_others():
    assert [module for module in modules() if module in closure(set(imports_of(module)))] == []


def test_the_contract_needs_numpy_and_pillow_alone():
    """The Triton repository carries the folder, into an environment that has nothing else (HEIC is then not read)."""
    for module in modules():
        if room_of(module) == "contract":
            foreign = top_packages(names_imported(module_file(module).read_text())) - sys.stdlib_module_names
            assert foreign <= {"numpy", "PIL", "rice_lib", "pillow_heif"}, module
            assert "pillow_heif" not in top_packages(
                names_imported(module_file(module).read_text(), top_level_only=True)
            )


@pytest.mark.parametrize("module", OF_RICE_INFER)
def test_prediction_imports_nothing_heavy(module):
    """What runs when these are imported; a heavy library is imported where it is used."""
    for reached in closure({module}, top_level_only=True):
        names = names_imported(module_file(reached).read_text(), top_level_only=True)
        assert not top_packages(names) & HEAVY, reached


@pytest.mark.parametrize("room", ["backends", "serving", "export"])
def test_what_runs_models_imports_no_training(room):
    of_room = {module for module in modules() if room_of(module) == room}
    training = {f"rice_lib.models.{name}" for name in ("finetune", "baseline", "augment")}
    assert not closure(of_room) & training
