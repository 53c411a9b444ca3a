"""The Python models that run inside the server, with a stand-in for the module that the server gives them."""

import base64
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from support.triton import write_onnx

from rice_lib.backends.open import open_predictor
from rice_lib.contract.decision import Decision
from rice_lib.contract.decode import decode
from rice_lib.contract.features import FEATURES, extract_features
from rice_lib.contract.prediction import read_logits
from rice_lib.contract.record import Record
from rice_lib.data.synthetic import VARIETIES
from rice_lib.serving import server
from rice_lib.serving.repository import drawn_grain


class Tensor:
    def __init__(self, name, array):
        self.name, self.array = name, array

    def as_numpy(self):
        return self.array


class TritonError(str):
    INVALID_ARG = "invalid"

    def __new__(cls, text, code=None):
        return super().__new__(cls, text)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load a model's file and initialise it in the folder `tmp_path`."""
    utils = ModuleType("triton_python_backend_utils")
    utils.Tensor, utils.TritonError = Tensor, TritonError
    utils.InferenceResponse = lambda tensors=(), error=None: SimpleNamespace(tensors=list(tensors), error=error)
    utils.get_input_tensor_by_name = lambda request, name: request[name]
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def load(file, config=None):
        spec = importlib.util.spec_from_file_location("model_under_test", Path(server.__file__).parent / file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        model.initialize({"model_config": json.dumps(config), "model_repository": str(tmp_path), "model_version": "1"})
        return model

    return load


@pytest.fixture
def backend(tmp_path, load):
    write_onnx(tmp_path / "1" / "model.onnx")
    config = {
        "input": [{"name": "images"}],
        "output": [{"name": "logits"}],
        "parameters": {"labels": {"string_value": "[]"}, "intra_op_thread_count": {"string_value": "1"}},
    }
    return load("backend/onnxruntime/model.py", config)


def send(model, **inputs):
    """One request's response: its outputs by name, or its error."""
    (response,) = model.execute([{name: Tensor(name, values) for name, values in inputs.items()}])
    return response.error or {tensor.name: tensor.array for tensor in response.tensors}


def texts(*values):
    return np.array(values, np.object_)[:, None]


def test_the_decoder_gives_the_contracts_pixels_and_features(load):
    model, grain = load("models/decode.py"), drawn_grain()
    outputs = send(model, file=texts(grain, b"not a grain"))
    np.testing.assert_array_equal(outputs["images"], [decode(grain), np.zeros((224, 224, 3), np.uint8)])
    np.testing.assert_array_equal(outputs["features"], [extract_features(decode(grain)), np.zeros(len(FEATURES))])
    assert outputs["error"][0, 0] == b""
    assert outputs["error"][1, 0]


def test_a_request_of_which_no_file_can_be_read_fails_with_the_first_reason(load):
    assert "text" in send(load("models/decode.py"), file=texts(b"not a grain, but text", b""))


@pytest.mark.parametrize("form", ["plain", "lines", "data URL"])
def test_the_decoder_takes_base64_of_a_client_that_has_only_json(load, form):
    grain = drawn_grain()
    encoded = base64.encodebytes(grain) if form == "lines" else base64.b64encode(grain)
    sent = b"data:image/jpeg;base64," + encoded if form == "data URL" else encoded
    outputs = send(load("models/decode.py"), file=texts(sent, b"abcde", b"\n" * 10**6 + b"!"))  # the others are none
    np.testing.assert_array_equal(outputs["images"][0], decode(grain))
    assert [bool(error) for error in outputs["error"].ravel()] == [False, True, True]


def test_the_decoder_sets_pillow_up_for_anybodys_files(load, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    load("models/decode.py")
    assert Image.MAX_IMAGE_PIXELS > 1


def test_confidence_is_the_score_of_the_label_in_tensor_and_record(tmp_path, load):
    (tmp_path / "1").mkdir()
    from rice_lib.backends.open import default_model

    with open_predictor(default_model()) as predictor:
        decision = predictor.decision
    values = {"labels": VARIETIES, "decision": json.loads(decision.to_json())}
    (tmp_path / "1" / "decision.json").write_text(json.dumps(values))
    logits = np.array([[9, 1, 0, 0, 0], [0, 8, 1, 0, 0], [0, 0, 7, 1, 0]], np.float32)
    features = np.zeros((3, len(FEATURES)), np.float32)  # of a black image, which the rule rejects
    model = load("models/postprocess.py")
    model.decision = SimpleNamespace(
        probabilities=decision.probabilities, rejections=lambda *_: [None, "unlike the training images", None]
    )
    outputs = send(
        model,
        logits=logits,
        features=features,
        notes=texts(b"first of 2 frames", b"", b""),
        error=texts(b"", b"", b"bad"),
    )
    first, rejected, failed = (json.loads(text) for text in outputs["record"][:, 0])
    expected = read_logits(VARIETIES, Decision(decision.temperature), logits, features)
    record = Record("", expected[0], ("first of 2 frames",)).as_dict(5)
    assert {"path": "", **first} == record
    assert (rejected["label"], rejected["confidence"], rejected["reason"]) == (
        "unknown", None, "unlike the training images"
    )  # fmt: skip
    assert failed == {"error": "bad"}
    assert outputs["variety"].ravel().tolist() == [b"Arborio", b"unknown", b""]
    np.testing.assert_allclose(outputs["confidence"].ravel(), [expected[0].confidence, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(outputs["scores"].sum(axis=1), [1, 1, 0], rtol=1e-5)


def test_a_black_image_is_rejected_by_the_models_own_rule(tmp_path, load):
    from rice_lib.backends.open import default_model

    (tmp_path / "1").mkdir()
    with open_predictor(default_model()) as predictor:
        values = {"labels": predictor.labels, "decision": json.loads(predictor.decision.to_json())}
    (tmp_path / "1" / "decision.json").write_text(json.dumps(values))
    nothing = texts(b"")
    features = np.zeros((1, len(FEATURES)), np.float32)
    logits = np.array([[9, 1, 0, 0, 0]], np.float32)
    outputs = send(load("models/postprocess.py"), logits=logits, features=features, notes=nothing, error=nothing)
    assert outputs["variety"][0, 0] == b"unknown"
    assert outputs["reason"][0, 0].startswith(b"not a single grain")
    assert outputs["confidence"][0, 0] == 0


def test_merged_requests_are_postprocessed_as_each_alone(tmp_path, load):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "decision.json").write_text(
        json.dumps({"labels": VARIETIES, "decision": json.loads(Decision().to_json())})
    )
    model, logits = load("models/postprocess.py"), np.eye(5, dtype=np.float32)
    features, none = np.zeros((5, len(FEATURES)), np.float32), texts(*[b""] * 5)
    requests = [
        {"logits": logits[rows], "features": features[rows], "notes": none[rows], "error": none[rows]}
        for rows in (slice(0, 1), slice(1, 3), slice(3, 5))
    ]
    merged = model.execute([{name: Tensor(name, rows) for name, rows in each.items()} for each in requests])
    for response, request in zip(merged, requests, strict=True):
        alone = send(model, **request)
        assert len(alone["variety"]) == len(request["logits"])
        for tensor in response.tensors:
            np.testing.assert_array_equal(tensor.array, alone[tensor.name])


def asking(pixels):
    return {"images": Tensor("images", pixels)}


def test_requests_run_as_one_batch_and_each_gets_its_own_rows(backend, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (21, 224, 224, 3), dtype=np.uint8)
    responses = backend.execute([asking(pixels[:1]), asking(pixels[1:4]), asking(pixels[4:])])
    expected = open_predictor(tmp_path / "1" / "model.onnx").logits(pixels)
    assert [response.tensors[0].array.shape for response in responses] == [(1, 5), (3, 5), (17, 5)]
    np.testing.assert_allclose(np.concatenate([r.tensors[0].array for r in responses]), expected, atol=1e-4)
    assert all(response.tensors[0].name == "logits" and response.error is None for response in responses)


def test_a_failing_run_fails_every_request_and_the_instance_stays_up(backend):
    wrong = np.zeros((1, 100, 100, 3), np.uint8)
    responses = backend.execute([asking(wrong), asking(wrong)])
    assert [response.tensors for response in responses] == [[], []]
    assert all("ONNX Runtime" in response.error for response in responses)
    good = backend.execute([asking(np.zeros((1, 224, 224, 3), np.uint8))])
    assert good[0].error is None
