"""Forms of a model: the 8-bit file, other engines, and which of them are offered."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from PIL import Image
from support.models import grains, tiny_checkpoint, tiny_onnx

from rice_lib.backends.open import default_model, open_predictor
from rice_lib.cli import export as command
from rice_lib.common.errors import RiceError
from rice_lib.contract.decision import Decision
from rice_lib.contract.decode import decode
from rice_lib.data import synthetic
from rice_lib.data.synthetic import VARIETIES
from rice_lib.export import forms
from rice_lib.export.onnx import quantise


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.stack([decode(synthetic.jpeg(name, number, 4, 83)) for name in VARIETIES for number in range(1, 5)])


@pytest.fixture(scope="module")
def int8(tmp_path_factory, pixels):
    return quantise(default_model(), tmp_path_factory.mktemp("int8") / "model_int8.onnx", pixels)


def test_the_8_bit_file_is_small_carries_all_and_computes_the_same(int8, pixels):
    assert int8.stat().st_size < 0.4 * default_model().stat().st_size
    with open_predictor(int8) as ours, open_predictor(default_model()) as theirs:
        assert (ours.labels, ours.precision) == (theirs.labels, "int8")
        assert ours.decision.to_json() == theirs.decision.to_json()
        assert np.abs(ours.logits(pixels) - theirs.logits(pixels)).mean() < 0.5


def test_the_alignment_and_the_attention_stay_in_float32(int8):
    graph = onnx.load(int8).graph
    made_by = {output: node for node in graph.node for output in node.output}
    sampled = next(node for node in graph.node if node.op_type == "GridSample")
    behind, seen = list(sampled.input), set()
    while behind:
        node = made_by.get(behind.pop())
        if node is not None and node.name not in seen:
            seen.add(node.name)
            assert "Linear" not in node.op_type
            behind += node.input
    assert len(seen) > 20
    for node in graph.node:
        if node.op_type == "Softmax":
            assert made_by[node.input[0]].op_type not in ("DequantizeLinear", "QuantizeLinear")


def logits(*numbers: int) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[list(numbers)]


def test_a_form_is_offered_that_changes_no_more_labels_than_float32_makes_errors():
    truth, images = np.array([0, 1, 2, 0]), np.zeros((4, 224, 224, 3), np.uint8)
    reference = logits(0, 1, 2, 1)  # one error
    kept = forms.compare(logits(0, 1, 1, 1), reference, truth, images, Decision())
    assert (kept.changed, kept.errors, kept.reference_errors, kept.rejections_equal) == (1, 2, 1, None)
    assert kept.offered
    kept = forms.compare(logits(0, 2, 1, 1), reference, truth, images, Decision())
    assert not kept.offered
    assert str(kept) == "2 of 4 labels changed; float32 makes 1 error on them"


def test_rejections_are_compared(pixels):
    with open_predictor(default_model()) as model:
        ours, decision = model.logits(pixels), model.decision
    noise = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    both, doubled = np.concatenate([pixels, noise]), np.concatenate([ours, ours])
    truth = doubled.argmax(1)
    kept = forms.compare(doubled, doubled, truth, both, decision)
    assert (kept.changed, kept.errors, kept.rejections_equal, kept.offered) == (0, 0, 1.0, True)
    other = forms.compare(np.roll(doubled, 1, axis=1), doubled, truth, both, decision)
    assert (other.changed, other.errors, other.offered) == (len(both), len(both), False)


def write_folders(folder, pixels):
    for number, image in enumerate(pixels):
        file = folder / VARIETIES[number // 4] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return folder


def test_the_command_writes_8_bits_and_withholds_what_changes_too_much(tmp_path, pixels, capsys, monkeypatch):
    images, output = write_folders(tmp_path / "images", pixels), tmp_path / "model.onnx"
    line = ["onnx", str(tiny_checkpoint()), "--output", str(output), "--precision", "int8", "--images"]
    with pytest.raises(RiceError, match="--precision int8: wants --images, 20 images at least, in a folder a variety"):
        command.main([*line, str(images / VARIETIES[0])])
    assert not output.exists()
    assert command.main([*line, str(images)]) == 0
    assert "labels changed; float32 makes" in capsys.readouterr().out
    monkeypatch.setattr(forms.Kept, "offered", False)
    with pytest.raises(RiceError, match=r"model.onnx: not offered: \d+ of 10 labels changed; .*; use float32"):
        command.main([*line, str(images)])
    assert not output.exists()


def test_openvino_computes_the_same_where_it_is_installed():
    pytest.importorskip("openvino", reason="OpenVINO is an engine that users install themselves")
    with open_predictor(f"openvino:{tiny_onnx()}", 1) as ours, open_predictor(tiny_onnx(), 1) as theirs:
        assert (ours.name, ours.labels) == ("openvino/CPU", theirs.labels)
        np.testing.assert_allclose(ours.logits(grains(3)), theirs.logits(grains(3)), atol=1e-3)


def test_without_openvino_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(RiceError, match="OpenVINO is not installed: pip install openvino"):
        open_predictor(f"openvino:{tiny_onnx()}")
