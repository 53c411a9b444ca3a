"""Triton's `onnxruntime` backend, Python-based, for machines that have only the pip wheel of the server.

NVIDIA's container brings a C++ backend of this name; nvidia-pytriton's wheel does not. The server is given
this one by `--backend-directory`, so a model repository that says `backend: "onnxruntime"` is served by both,
unchanged. It runs in the serving environment, and imports nothing else of this project.
"""

import json
import os
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

AT_ONCE = 8
"""Images that one thread computes at once: activations stay in its core's cache (a ViT-Ti: 11 % faster than at 32)."""


class TritonPythonModel:
    """One instance of a model: what Triton's Python backend calls."""

    def initialize(self, args: dict) -> None:
        """Load `<model>/<version>/model.onnx`; the thread counts mean what they mean to NVIDIA's backend."""
        config = json.loads(args["model_config"])
        filename = config.get("default_model_filename") or "model.onnx"
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only: warnings about constant folding mean nothing here
        options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 0))
        options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", 0))
        self.session = onnxruntime.InferenceSession(
            os.path.join(args["model_repository"], args["model_version"], filename),
            options,
            providers=["CPUExecutionProvider"],
        )
        self.at_once = AT_ONCE if options.intra_op_num_threads == 1 else None
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]

    def execute(self, requests: list) -> list:
        """Run the requests that the dynamic batcher collected as one batch; one response each, in order."""
        get = pb_utils.get_input_tensor_by_name
        columns = [[get(request, name).as_numpy() for request in requests] for name in self.inputs]
        try:
            results = self._run([_joined(column) for column in columns])
        except Exception as error:  # every request of the batch gets it; the instance stays up
            failure = pb_utils.TritonError(f"ONNX Runtime: {error}")
            return [pb_utils.InferenceResponse(error=failure) for _ in requests]
        # slices, not numpy.split: at one image a request that took longer than the copies
        ends = [0, *accumulate(map(len, columns[0]))]
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, result[start:end]) for name, result in zip(self.outputs, results, strict=True)]
            )
            for start, end in pairwise(ends)
        ]

    def _run(self, tensors: list) -> list:
        """Compute every output for a batch of every input, `at_once` rows at a time."""
        rows, parts = len(tensors[0]), []
        for start in range(0, rows, step := self.at_once or rows):
            feed = {name: x[start : start + step] for name, x in zip(self.inputs, tensors, strict=True)}
            parts.append(self.session.run(self.outputs, feed))
        return [_joined(part) for part in zip(*parts, strict=True)]


def _joined(parts: "Sequence[np.ndarray]") -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
