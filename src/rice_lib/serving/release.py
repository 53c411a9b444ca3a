"""A version into service: loaded beside the one that answers, checked on the server itself, then switched to.

What is not right never gets a public name: where the check fails the version is let go and removed, and the one that
answered goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from rice_lib.backends.open import open_predictor
from rice_lib.backends.predictor import Predictor
from rice_lib.backends.triton import import_tritonclient
from rice_lib.common.errors import RiceError
from rice_lib.contract.decode import IMAGE_SIZE, decode
from rice_lib.serving.config import FILE, INPUT, OUTPUT
from rice_lib.serving.repository import Repository, Version, drawn_grain

TOLERANCE, GPU_TOLERANCE = 1e-3, 5e-2
"""Largest difference of a logit from ONNX Runtime in this process that is let pass: a GPU's products are rounded."""

SEED = 83

LOAD_SECONDS = 600.0
"""Limit of loading one model: a GPU's first kernels are compiled meanwhile."""

T = TypeVar("T")


class Control:
    """Orders to a running server: load a model, let one go.

    Over gRPC: while a model is loaded by an order over HTTP, the server's thread that took it answers nobody else.
    """

    def __init__(self, address: str) -> None:
        """Connect to `host:port` of its gRPC endpoint."""
        self._library = import_tritonclient("grpc")
        self._address = address
        self._client = self._library.InferenceServerClient(address)

    def load(self, name: str) -> None:
        """Load a model, or load it anew; returns when it is ready and warm.

        Raises:
            RiceError: the server cannot; the line says why.
        """
        self._ask(name, lambda: self._client.load_model(name, client_timeout=LOAD_SECONDS))

    def unload(self, name: str) -> None:
        """Let a model go once its requests are answered; returns at once."""
        self._ask(name, lambda: self._client.unload_model(name))

    def on_gpu(self, name: str) -> bool:
        """Whether a loaded model is computed on a GPU."""
        config = self._ask(name, lambda: self._client.get_model_config(name, as_json=True))["config"]
        return any(group["kind"] == "KIND_GPU" for group in config["instance_group"])

    def infer(self, name: str, **inputs: np.ndarray) -> Any:
        """One request of arrays by tensor name; the client library's result."""
        from tritonclient.utils import np_to_triton_dtype

        tensors = []
        for tensor, values in inputs.items():
            tensors.append(self._library.InferInput(tensor, list(values.shape), np_to_triton_dtype(values.dtype)))
            tensors[-1].set_data_from_numpy(values)
        return self._ask(name, lambda: self._client.infer(name, tensors, client_timeout=LOAD_SECONDS))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _ask(self, name: str, call: Callable[[], T]) -> T:
        from tritonclient.utils import InferenceServerException

        try:
            return call()
        except InferenceServerException as error:
            raise RiceError(f"{name} on {self._address}: {' '.join(str(error).split())}", 1) from None


def release(repository: Repository, made: Version, address: str | None) -> None:
    """Have a version answer, after a check.

    Args:
        repository: holds the version.
        made: the version.
        address: `host:port` of the gRPC endpoint of a server that serves the repository; None where none runs.

    Raises:
        RiceError: the version does not load or does not answer as the model does; it is removed, and the one before
            answers as it did.
    """
    control = None if address is None else Control(address)
    steps = repository.names.steps(made.version)
    try:
        with open_predictor(repository.classifier(made.version) / "1" / "model.onnx") as model:
            if control is None:
                _check_alone(model)
            else:
                for name in steps:
                    control.load(name)
                _check_served(control, repository, made, model)
    except RiceError as error:
        if control is not None:
            for name in steps:
                control.unload(name)
            control.close()
        repository.discard(made.version)
        raise RiceError(f"version {made.version} is not taken into service: {error}", 1) from None
    go_over(repository, made.version, control)


def go_over(repository: Repository, version: int, control: Control | None) -> None:
    """Have a version answer that was in service before, or is checked."""
    if control is None:
        repository.switch(version)
        return
    try:
        repository.switch(version, control.load, control.unload)
    finally:
        control.close()


def _check_alone(model: Predictor) -> None:
    if not np.isfinite(model.logits(random_images(np.random.default_rng(SEED), 2))).all():
        raise RiceError("its logits are not finite")


def _check_served(control: Control, repository: Repository, made: Version, model: Predictor) -> None:
    decode_name, classify, tell = repository.names.steps(made.version)
    tolerance = GPU_TOLERANCE if control.on_gpu(classify) else TOLERANCE
    for batch in sorted({1, min(3, made.max_batch), made.max_batch}):
        pixels = random_images(np.random.default_rng(SEED), batch)
        apart = float(np.abs(control.infer(classify, **{INPUT: pixels}).as_numpy(OUTPUT) - model.logits(pixels)).max())
        if not apart <= tolerance:  # so that NaN fails, too
            raise RiceError(f"its logits differ by {apart:g} from the model's, batch {batch}")
    grain = drawn_grain()
    decoded = control.infer(decode_name, **{FILE: np.array([[grain]], np.object_)})
    images = decoded.as_numpy(INPUT)
    if not np.array_equal(images[0], decode(grain)):
        raise RiceError("the server decodes to other pixels; make its environment anew (make serve-env)")
    logits = control.infer(classify, **{INPUT: images}).as_numpy(OUTPUT)
    columns = {name: decoded.as_numpy(name) for name in ("features", "notes", "error")}
    told = control.infer(tell, **{OUTPUT: logits, **columns}).as_numpy("scores")
    if not np.allclose(told.sum(axis=1), 1, atol=1e-5):
        raise RiceError("its scores do not sum to 1")


def random_images(random: np.random.Generator, count: int) -> np.ndarray:
    """uint8 `[count, 224, 224, 3]`: a fault in a server's hand-over of arrays can pass unseen on constants."""
    return random.integers(0, 256, (count, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
