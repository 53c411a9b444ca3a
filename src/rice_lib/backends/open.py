"""Opening a model by its name: a backend's library is imported when such a model is opened, not before."""

from __future__ import annotations

import os
from pathlib import Path

from rice_lib.backends.predictor import Predictor
from rice_lib.common.errors import RiceError

OPENVINO = "openvino:"
SHIPPED_MODEL = "rice-vit-tiny.onnx"


def open_predictor(spec: str | Path, threads: int | None = None) -> Predictor:
    """Open a model by its name.

    Args:
        spec: a checkpoint directory, an `.onnx` file (`openvino:FILE.onnx` runs it by OpenVINO), a TensorRT plan
            (`.plan`, `.engine`), or a model on a Triton server: `triton://host:port/name` over HTTP,
            `triton+grpc://host:port/name` over gRPC.
        threads: CPU threads of the engine; None lets it use every core.

    Raises:
        RiceError: no such model, a damaged or foreign one, or a library that is not installed.
    """
    text = os.fspath(spec)
    if "://" in text:
        from rice_lib.backends.triton import TritonPredictor, parse_url

        protocol, address, model = parse_url(text)
        return TritonPredictor(address, model, protocol)
    engine, file = split_engine(text)
    path = Path(file)
    if not path.exists():
        raise RiceError(f"{path}: no such model")
    if engine:
        from rice_lib.backends.openvino import OpenVinoPredictor

        return OpenVinoPredictor(path, threads)
    if path.is_dir():
        from rice_lib.backends.checkpoint import CheckpointPredictor

        return CheckpointPredictor(path, threads)
    if path.suffix == ".onnx":
        from rice_lib.backends.onnx import OnnxPredictor

        return OnnxPredictor(path, threads)
    if path.suffix in (".plan", ".engine"):
        from rice_lib.backends.plan import TensorRTPredictor

        return TensorRTPredictor(path)
    raise RiceError(f"{path}: not a model; give a checkpoint directory, an .onnx, a .plan, or triton://host:port/name")


def split_engine(spec: str) -> tuple[str, str]:
    """Split the name of a model on this machine into `openvino:`, or nothing, and its file or folder."""
    engine = OPENVINO if spec.startswith(OPENVINO) else ""
    return engine, spec.removeprefix(engine)


def default_model() -> Path:
    """Find the model that ships, in the wheel or under a checkout's `models/`; raises `RiceError` where it is not."""
    package = Path(__file__).resolve().parents[1]
    places = (package / "_models" / SHIPPED_MODEL, package.parents[1] / "models" / SHIPPED_MODEL)
    for place in places:
        if place.is_file():
            return place
    raise RiceError(f"the model that ships is not here ({' or '.join(map(str, places))}); name one with --model")
