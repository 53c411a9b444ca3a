"""The benchmark of whole commands: what is compared is the same model, and the ratios are of the same run."""

import json

import numpy as np
import pytest
import torch
from rice_lib.benchmark import __main__ as command
from rice_lib.benchmark import cold, training
from support.models import grains, tiny_checkpoint, write_grains
from transformers import ViTForImageClassification, ViTImageProcessor

from models import write_forms
from rice_lib.backends.open import open_predictor
from rice_lib.cli.export import timing
from rice_lib.common.errors import RiceError


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    return write_forms(tmp_path_factory.mktemp("forms"), tiny_checkpoint(), patches=196)


def test_every_form_tells_the_same(forms):
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
    script = f"open({str(log)!r}, 'a').write({{!r}}); print('first'); print('said')"
    timings = timing.in_turn({name: timing.python("-c", script.format(name)) for name in "ab"}, runs=2)
    assert log.read_text() == "ababab"
    assert timings["a"].said == ["said", "said"]
    assert len(timings["b"].seconds) == 2


def test_ratios_are_taken_run_by_run():
    assert timing.ratio([2.0, 9.0, 4.0], [1.0, 3.0, 1.0]) == (2.0, 3.0, 4.0)


def test_a_command_that_fails_is_told_in_one_line():
    with pytest.raises(RiceError, match=r"benchmark: x failed with status 3 \(no such thing\)"):
        timing.in_turn(
            {"x": timing.python("-c", "import sys; print('no such thing', file=sys.stderr); sys.exit(3)")}, 1
        )


def test_imports_are_those_of_a_prediction(tmp_path, forms):
    spent = cold.imports(write_grains(tmp_path, 1)[0], forms.foreground)
    assert {"numpy", "PIL", "onnxruntime", "rice_lib"} <= set(spent)
    assert not {"torch", "transformers", "pandas"} & set(spent)
    assert list(spent.values()) == sorted(spent.values(), reverse=True)


def test_training_is_compared_step_by_step(tmp_path):
    found = training.measure(write_grains(tmp_path, 2), patches=40, batch=2, steps=2)
    assert {name: len(rates) for name, rates in found["images_per_s"].items()} == {"dense": 2, "foreground": 2}
    low, middle, high = found["foreground_to_dense"]
    assert low <= middle <= high


@pytest.mark.slow
def test_bulk_prints_its_ratios_and_keeps_them(tmp_path, capsys):
    write_grains(tmp_path / "images", 4)
    told = tmp_path / "bulk.json"
    options = ["--images", tmp_path / "images", "--runs", 1, "--batch-size", 2, "--output", told]
    assert command.main(["bulk", *map(str, options), "--checkpoint", str(tiny_checkpoint())]) == 0
    kept = json.loads(told.read_text())
    assert f"{kept['command_to_pipeline'][1]:.2f}" in capsys.readouterr().out
    assert set(kept["provenance"]) == {"created", "commit", "hardware", "versions"}


def test_memory_is_measured_over_files_that_are_all_told(tmp_path, capsys):
    write_grains(tmp_path / "images", 2)
    told = tmp_path / "memory.json"
    assert command.main(["memory", "--images", str(tmp_path / "images"), "--count", "5", "--output", str(told)]) == 0
    peaks = json.loads(told.read_text())["peak_mib"]
    assert list(peaks) == ["1", "5"]
    assert 50 < peaks["1"] < 1000
    assert f"{peaks['5']:.0f}" in capsys.readouterr().out


def test_a_folder_without_images_is_told_in_one_line(tmp_path):
    with pytest.raises(RiceError, match="holds no images"):
        command.main(["training", "--images", str(tmp_path)])
