"""The Python-based `onnxruntime` backend, with a stand-in for the module that the server gives it."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from support.triton import write_onnx

from rice_lib.backends.open import open_predictor
from rice_lib.serving import server


class Tensor:
    def __init__(self, name, array):
        self.name, self.array = name, array

    def as_numpy(self):
        return self.array


@pytest.fixture
def backend(tmp_path, monkeypatch):
    utils = ModuleType("triton_python_backend_utils")
    utils.Tensor = Tensor
    utils.TritonError = str
    utils.InferenceResponse = lambda tensors=(), error=None: SimpleNamespace(tensors=list(tensors), error=error)
    utils.get_input_tensor_by_name = lambda request, name: request[name]
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    file = Path(server.__file__).with_name("backend") / "onnxruntime" / "model.py"
    spec = importlib.util.spec_from_file_location("backend_under_test", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    write_onnx(tmp_path / "1" / "model.onnx")
    config = {
        "input": [{"name": "images"}],
        "output": [{"name": "logits"}],
        "parameters": {"labels": {"string_value": "[]"}, "intra_op_thread_count": {"string_value": "1"}},
    }
    model = module.TritonPythonModel()
    model.initialize({"model_config": json.dumps(config), "model_repository": str(tmp_path), "model_version": "1"})
    return model


def asking(pixels):
    return {"images": Tensor("images", pixels)}


def test_requests_run_as_one_batch_and_each_gets_its_own_rows(backend, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (21, 224, 224, 3), dtype=np.uint8)
    responses = backend.execute([asking(pixels[:1]), asking(pixels[1:4]), asking(pixels[4:])])
    expected = open_predictor(tmp_path / "1" / "model.onnx").logits(pixels)
    assert [response.tensors[0].array.shape for response in responses] == [(1, 5), (3, 5), (17, 5)]
    np.testing.assert_allclose(np.concatenate([r.tensors[0].array for r in responses]), expected, atol=1e-4)
    assert all(response.tensors[0].name == "logits" and response.error is None for response in responses)


def test_a_failing_run_is_told_to_every_request_and_the_instance_lives_on(backend):
    wrong = np.zeros((1, 100, 100, 3), np.uint8)
    responses = backend.execute([asking(wrong), asking(wrong)])
    assert [response.tensors for response in responses] == [[], []]
    assert all("ONNX Runtime" in response.error for response in responses)
    good = backend.execute([asking(np.zeros((1, 224, 224, 3), np.uint8))])
    assert good[0].error is None
