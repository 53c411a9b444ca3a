"""The scripts that time whole commands: what is compared is the same model, and the ratios are of the same run."""

import contextlib
import io
import json
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import bulk
import cold
import common
import memory
import numpy as np
import parts
import pytest
import torch
import training
from support.models import grains, tiny_checkpoint, write_grains
from support.triton import write_onnx
from transformers import ViTForImageClassification, ViTImageProcessor

from models import write_forms
from rice_lib.backends.open import open_predictor
from rice_lib.common.errors import RiceError
from rice_lib.common.parameters import ArchitectureParams


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    return write_forms(tmp_path_factory.mktemp("forms"), tiny_checkpoint(), patches=196)


@pytest.fixture
def given_forms(monkeypatch, forms):
    """The scripts take the forms that are written already."""

    def given(folder, checkpoint, patches):
        assert (folder.is_dir(), checkpoint, patches) == (True, tiny_checkpoint(), 196)
        return forms

    for script in (bulk, cold):
        monkeypatch.setattr(script, "write_forms", given)
    return ["--checkpoint", str(tiny_checkpoint()), "--patches", "196"]


@pytest.fixture
def alternatives_in_process(monkeypatch):
    """The alternatives run in this process, which has imported torch and transformers before."""

    def run(command, check, **options):
        if not command[1].endswith("alternatives.py"):
            return subprocess.run(command, check=check, **options)
        printed = io.StringIO()
        with monkeypatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.setattr(sys, "argv", command[1:])
            runpy.run_path(command[1], run_name="__main__")
        return subprocess.CompletedProcess(command, 0, printed.getvalue(), "")

    monkeypatch.setattr(common, "subprocess", SimpleNamespace(run=run))


@pytest.mark.slow
def test_every_form_predicts_the_same(forms):
    images = grains(3)
    plain = ViTForImageClassification.from_pretrained(forms.transformers).eval()
    inputs = ViTImageProcessor.from_pretrained(forms.transformers)(list(images), return_tensors="pt")
    with torch.inference_mode():
        expected = plain(**inputs).logits.numpy()
    for file in (forms.dense, forms.foreground):  # all 196 patches: the dense model in another order
        with open_predictor(file) as predictor:
            np.testing.assert_allclose(predictor.logits(images), expected, atol=1e-4)


def test_commands_are_run_in_turn_and_the_warm_up_is_not_counted(tmp_path):
    log = tmp_path / "log"
    script = f"open({str(log)!r}, 'a').write({{!r}}); print('first'); print('last')"
    timings = common.in_turn({name: common.python("-c", script.format(name)) for name in "ab"}, runs=2)
    assert log.read_text() == "ababab"
    assert timings["a"].last_lines == ["last", "last"]
    assert len(timings["b"].seconds) == 2


def test_ratios_are_taken_run_by_run():
    assert common.ratio([2.0, 9.0, 4.0], [1.0, 3.0, 1.0]) == (2.0, 3.0, 4.0)
    assert common.span((2.0, 3.0, 4.0), 1) == "3.0 (2.0 to 4.0)"


def test_a_command_that_fails_is_one_line():
    script = "import sys; print('no such thing', file=sys.stderr); sys.exit(3)"
    with pytest.raises(RiceError, match=r"benchmark: x failed with status 3 \(no such thing\)"):
        common.in_turn({"x": common.python("-c", script)}, 1)


def test_photographs_are_taken_evenly_from_the_folder(tmp_path):
    files = write_grains(tmp_path, 4)
    arguments = common.parser("", files=2).parse_args(["--images", str(tmp_path)])
    found = common.photographs(arguments, tmp_path)
    assert found == files[:: len(files) // 2][:2]


def test_a_folder_without_images_is_one_line(tmp_path):
    with pytest.raises(RiceError, match="holds no images"):
        training.main(["--images", str(tmp_path)])


def test_imports_are_those_of_a_prediction(tmp_path):
    spent = cold.imports(write_grains(tmp_path, 1)[0], write_onnx(tmp_path / "model.onnx"))
    assert {"numpy", "PIL", "onnxruntime", "rice_lib"} <= set(spent)
    assert not {"torch", "transformers", "pandas"} & set(spent)
    assert list(spent.values()) == sorted(spent.values(), reverse=True)


def test_training_is_compared_step_by_step(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "VIT_TINY", ArchitectureParams(hidden_size=32, layers=1, heads=2))
    write_grains(tmp_path / "images", 2)
    output = tmp_path / "training.json"
    options = ["--images", tmp_path / "images", "--patches", 40, "--batch-size", 2, "--runs", 2, "--output", output]
    assert training.main([*map(str, options)]) == 0
    found = json.loads(output.read_text())
    assert {name: len(rates) for name, rates in found["images_per_s"].items()} == {"dense": 2, "foreground": 2}
    low, middle, high = found["foreground_to_dense"]
    assert low <= middle <= high
    assert f"{middle:.2f}" in capsys.readouterr().out


def test_memory_is_measured_over_files_that_are_all_classified(tmp_path, capsys):
    write_grains(tmp_path / "images", 2)
    output = tmp_path / "memory.json"
    assert memory.main(["--images", str(tmp_path / "images"), "--copies", "5", "--output", str(output)]) == 0
    peaks = json.loads(output.read_text())["peak_mib"]
    assert list(peaks) == ["1", "5"]
    assert 50 < peaks["1"] < 1000
    assert f"{peaks['5']:.0f}" in capsys.readouterr().out


@pytest.mark.slow
def test_bulk_prints_its_ratios_and_keeps_them(tmp_path, given_forms, alternatives_in_process, capsys):
    write_grains(tmp_path / "images", 4)
    output = tmp_path / "bulk.json"
    options = ["--images", tmp_path / "images", "--runs", 1, "--batch-size", 2, "--output", output]
    assert bulk.main([*map(str, options), *given_forms]) == 0
    kept = json.loads(output.read_text())
    assert kept["benchmark"] == "bulk"
    assert f"{kept['command_to_pipeline'][1]:.2f}" in capsys.readouterr().out
    assert set(kept["provenance"]) == {"created", "commit", "hardware", "versions"}


def test_parts_are_those_of_the_same_images_and_model(tmp_path, capsys):
    write_grains(tmp_path / "images", 4)
    output, model = tmp_path / "parts.json", write_onnx(tmp_path / "model.onnx")
    options = ["--images", tmp_path / "images", "--runs", 1, "--sample", 2, "--model", model, "--output", output]
    assert parts.main([*map(str, options)]) == 0
    kept = json.loads(output.read_text())
    models = [ms for name, ms in kept["core_ms"].items() if name.startswith("the model,")]
    assert len(models) == len(parts.BATCHES)
    bound = kept["core_ms"]["JPEG decoding"] + min(models)
    assert kept["bound_to_command"][1] == pytest.approx(bound / kept["core_ms"]["the whole command"])
    assert f"{kept['bound_to_command'][1]:.2f}" in capsys.readouterr().out


@pytest.mark.slow
def test_cold_prints_its_ratios(tmp_path, given_forms, capsys):
    write_grains(tmp_path, 1)
    assert cold.main(["--images", str(tmp_path), "--runs", "1", *given_forms]) == 0
    shown = capsys.readouterr().out
    assert "rice infer, the model that ships" in shown
    assert "onnxruntime" in shown


@pytest.mark.parametrize("script", ["cold", "bulk", "parts", "training", "memory", "server_load", "malformed_requests"])
def test_every_script_says_what_it_takes(script, capsys):
    with pytest.raises(SystemExit, match="0"):
        import_module(script).main(["--help"])
    assert "--images FOLDER" in capsys.readouterr().out


def test_a_script_runs_by_its_path():
    command = [sys.executable, Path(common.__file__).with_name("memory.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--images FOLDER" in done.stdout
