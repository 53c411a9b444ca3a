"""An exported ONNX file, run by OpenVINO on a CPU: `openvino:model.onnx`. Not a dependency: `pip install openvino`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rice_lib.backends.predictor import MAX_BATCH, Predictor, first_line, parse_decision, parse_labels
from rice_lib.common.errors import RiceError
from rice_lib.common.machine import cores
from rice_lib.contract.decision import KEY

MISSING = "OpenVINO is not installed: pip install openvino"


class OpenVinoPredictor(Predictor):
    """OpenVINO, in float32: left to itself it computes in bfloat16 where the CPU can, which changes labels."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Compile the model; raises `RiceError` where OpenVINO is not installed or does not take the file."""
        try:
            import openvino
        except ImportError:
            raise RiceError(MISSING) from None
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads or cores()}
        try:
            core = openvino.Core()
            model = core.read_model(path)
            compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise RiceError(f"{path}: OpenVINO cannot load it ({first_line(error)})") from None
        where = f"{path}: the ONNX metadata"
        labels, decision = (
            model.get_rt_info(["framework", key]).value if model.has_rt_info(["framework", key]) else None
            for key in ("labels", KEY)
        )
        self.labels = parse_labels(labels, where)
        self.decision = parse_decision(decision, where, self.labels)
        self.name, self.max_batch, self._request = "openvino/CPU", MAX_BATCH, compiled.create_infer_request()

    def _forward(self, pixels: np.ndarray) -> np.ndarray:
        return np.array(self._request.infer({0: pixels})[0])
