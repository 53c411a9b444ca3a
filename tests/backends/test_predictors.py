"""One interface, every backend; and one clear line for whatever is no model."""

import sys

import numpy as np
import onnx
import pytest
from support.models import grains, tiny_checkpoint, tiny_onnx

from rice_lib.backends import predictor as predictors
from rice_lib.backends.onnx import OnnxPredictor
from rice_lib.backends.open import open_predictor
from rice_lib.backends.predictor import MIN_SHARE, Predictor
from rice_lib.common.errors import RiceError
from rice_lib.contract.decision import Decision
from rice_lib.data.synthetic import VARIETIES


class Counting(Predictor):
    """Its logits are the first pixel; remembers the batches it was given."""

    name, labels, max_batch = "counting", ("a", "b"), 4

    def __init__(self):
        self.batches = []

    def _forward(self, pixels):
        assert pixels.flags.c_contiguous
        self.batches.append(len(pixels))
        return np.repeat(pixels[:, 0, 0, :1].astype(np.float32), 2, axis=1)


@pytest.mark.parametrize(("count", "batches"), [(0, []), (1, [1]), (4, [4]), (5, [4, 1]), (11, [4, 4, 3])])
def test_batches_are_cut_and_put_together_in_order(count, batches):
    pixels = np.zeros((count, 224, 224, 3), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(count)
    with Counting() as model:
        logits = model.logits(pixels)
    assert model.batches == batches
    assert logits.shape == (count, 2)
    assert logits.dtype == np.float32
    assert logits[:, 0].tolist() == list(range(count))


def test_images_that_are_not_contiguous_are_predicted_too():
    pixels = np.zeros((4, 224, 224, 3), np.uint8)[::2]
    assert Counting().logits(pixels).shape == (2, 2)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 224, 224, 3), np.float32),
        np.zeros((224, 224, 3), np.uint8),
        np.zeros((1, 3, 224, 224), np.uint8),
        np.zeros((1, 256, 256, 3), np.uint8),
    ],
)
def test_other_shapes_and_types_are_an_error(pixels):
    with pytest.raises(ValueError, match="expected uint8"):
        Counting().logits(pixels)


def test_checkpoint_and_onnx_say_the_same():
    pixels = grains(5)
    with open_predictor(tiny_checkpoint()) as torch_model, open_predictor(tiny_onnx(), threads=1) as onnx_model:
        assert torch_model.labels == onnx_model.labels == VARIETIES
        assert torch_model.name.startswith("torch/")
        np.testing.assert_allclose(torch_model.logits(pixels), onnx_model.logits(pixels), atol=1e-4)


def test_the_name_says_where_the_session_really_runs(monkeypatch):
    import onnxruntime

    # onnxruntime-gpu lists CUDA on machines without a GPU
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, providers: session(path, options, providers=["CPUExecutionProvider"]),
    )
    with open_predictor(tiny_onnx()) as model:
        assert model.name == "onnxruntime/CPU"


def test_what_is_no_model_is_one_line(tmp_path):
    (tmp_path / "x.txt").write_text("no")
    (tmp_path / "x.onnx").write_text("no")
    (tmp_path / "empty").mkdir()
    for spec, message in {
        tmp_path / "none.onnx": "no such model",
        tmp_path / "x.txt": "not a model; give",
        tmp_path / "x.onnx": "ONNX Runtime cannot load it",
        tmp_path / "empty": "no checkpoint here",
        "ftp://host/model": "unknown scheme",
        "triton://host:8000": "write it as triton://host:port/name",
    }.items():
        with pytest.raises(RiceError, match=message) as caught:
            open_predictor(spec)
        assert "\n" not in str(caught.value)
        assert caught.value.status == 2


def _foreign(tmp_path, change):
    model = onnx.load(tiny_onnx())
    change(model)
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path)
    return path


def test_an_onnx_file_without_labels_is_an_error(tmp_path):
    path = _foreign(tmp_path, lambda model: model.ClearField("metadata_props"))
    with pytest.raises(RiceError, match="holds no labels"):
        open_predictor(path)


def test_an_onnx_file_whose_labels_do_not_fit_is_an_error(tmp_path):
    path = _foreign(tmp_path, lambda model: onnx.helper.set_model_props(model, {"labels": '["a", "b"]'}))
    with pytest.raises(RiceError, match="2 labels in its metadata for 5 logits"):
        open_predictor(path)


@pytest.mark.parametrize(("scheme", "protocol"), [("triton", "http"), ("triton+grpc", "grpc")])
def test_a_triton_url_opens_the_client(monkeypatch, scheme, protocol):
    monkeypatch.setattr("rice_lib.backends.triton.TritonPredictor", lambda *arguments: arguments)
    assert open_predictor(f"{scheme}://host:8000/rice") == ("host:8000", "rice", protocol)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RiceError, match=r"pip install 'rice-lib\[cpu\]'"):
        open_predictor(tiny_onnx())


def test_probabilities_sum_to_one_however_large_the_logits():
    scores = Decision().probabilities(np.array([[1000.0, 999.0, -1000.0], [0.0, 0.0, 0.0]], np.float32))
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    np.testing.assert_allclose(scores[0, :2], [0.731058, 0.268941], atol=1e-5)
    np.testing.assert_allclose(scores[1], 1 / 3)


def test_labels_are_a_json_list_of_names():
    assert predictors.parse_labels('["a", "b"]', "x") == ("a", "b")
    for text in (None, "", "[]", "{}", "[1]", "a,b"):
        with pytest.raises(RiceError, match="x holds no labels"):
            predictors.parse_labels(text, "x")


@pytest.mark.parametrize("count", [15, 16, 37])
def test_a_large_batch_is_shared_among_the_cores_with_the_same_logits(count):
    pixels = grains(count)
    with OnnxPredictor(tiny_onnx(), threads=1) as one, OnnxPredictor(tiny_onnx(), threads=3) as three:
        np.testing.assert_array_equal(three.logits(pixels), one.logits(pixels))
        # from twice the least share on, not before
        for predictor in (one, three):
            assert ("_one_core" in vars(predictor)) == (count >= 2 * MIN_SHARE)


@pytest.mark.parametrize("kept", [0.6, 0.999])
def test_weights_that_are_cut_off_are_named(kept, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny_checkpoint() / name).read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: int(kept * weights.stat().st_size)])
    with pytest.raises(RiceError, match=r"model.safetensors: cut off or damaged \(.*\); copy it again"):
        open_predictor(tmp_path)
