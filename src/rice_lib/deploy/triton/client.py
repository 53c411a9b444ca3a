"""A model on a Triton server as a `Predictor`, over HTTP or gRPC.

Everything about the model (labels, tensor names, largest batch) is read from the server, so a client needs an
address and a name. The library is imported when a client is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPException
from types import ModuleType
from typing import Any, Literal, TypeVar

import numpy as np

from rice_lib.decision import KEY
from rice_lib.deploy.predictors import Predictor, parse_decision, parse_labels
from rice_lib.errors import RiceError
from rice_lib.preprocess import IMAGE_SIZE

Protocol = Literal["http", "grpc"]
T = TypeVar("T")

TIMEOUT_SECONDS = 60.0
"""Limit of one request: a batch of 256 through a ViT-B takes half a minute on two cores."""

CONNECT_SECONDS = 10.0


class TritonPredictor(Predictor):
    """A model on a server. Not for several threads at once: open one each."""

    def __init__(self, url: str, model: str, protocol: Protocol = "http", timeout_s: float = TIMEOUT_SECONDS) -> None:
        """Connect and read the model's configuration.

        Args:
            url: `host:port` of the server's HTTP or gRPC endpoint.
            model: the model's name there.
            protocol: `http` or `grpc`.
            timeout_s: seconds that one request may take.

        Raises:
            RiceError: no server there, no such model, or not a model of this project.
        """
        if "/" in url:
            raise RiceError(f"{url}: write a server's address as host:port, without a scheme")
        self._library = import_tritonclient(protocol)
        self._protocol, self._url, self._model, self._timeout = protocol, url, model, timeout_s
        self._client = self._ask(self._connect)
        try:
            config = self.config()
            self._input, self._output = _check_config(config, f"{model} on {url}")
            self.max_batch = int(config["max_batch_size"])
            parameters, where = config.get("parameters", {}), f"the configuration of {model} on {url}"
            self.labels = parse_labels(parameters.get("labels", {}).get("string_value"), where)
            self.decision = parse_decision(parameters.get(KEY, {}).get("string_value"), where, self.labels)
        except BaseException:
            self.close()
            raise
        self.name = f"triton/{protocol}"

    def config(self) -> dict[str, Any]:
        """The model's configuration as the server gives it."""
        if self._protocol == "http":
            return self._ask(lambda: self._client.get_model_config(self._model))
        answer = self._ask(
            lambda: self._client.get_model_config(self._model, as_json=True, client_timeout=self._timeout)
        )
        return answer["config"]

    def metadata(self) -> dict[str, Any]:
        """The model's metadata: `name`, `versions`, `platform`, `inputs`, `outputs`."""
        if self._protocol == "http":
            return self._ask(lambda: self._client.get_model_metadata(self._model))
        return self._ask(
            lambda: self._client.get_model_metadata(self._model, as_json=True, client_timeout=self._timeout)
        )

    def server(self) -> str:
        """Name and version of the server."""
        if self._protocol == "http":
            answer = self._ask(self._client.get_server_metadata)
        else:
            answer = self._ask(lambda: self._client.get_server_metadata(as_json=True, client_timeout=self._timeout))
        return f"{answer['name']} {answer['version']}"

    def classify(self, pixels: np.ndarray, count: int) -> list[list[tuple[float, int, str]]]:
        """The server's own ranking, by its classification extension.

        Args:
            pixels: uint8 `[N, 224, 224, 3]`, N at most `max_batch`.
            count: classes to tell for each image.

        Returns:
            For each image `count` triples `(logit, class number, label)`, best first.

        Raises:
            RiceError: the request failed.
        """
        answer = self._infer(pixels, class_count=count)
        rows = [[_text(cell).split(":", 2) for cell in row] for row in answer.reshape(len(pixels), count)]
        return [[(float(score), int(number), label) for score, number, label in row] for row in rows]

    def _forward(self, pixels: np.ndarray) -> np.ndarray:
        logits = self._infer(pixels)
        if logits.shape != (len(pixels), len(self.labels)):
            raise RiceError(f"{self._where}: {logits.shape} logits came back for {len(pixels)} images", 1)
        return logits

    def _infer(self, pixels: np.ndarray, class_count: int = 0) -> np.ndarray:
        tensor = self._library.InferInput(self._input, list(pixels.shape), "UINT8")
        tensor.set_data_from_numpy(pixels)
        wanted = self._library.InferRequestedOutput(self._output, class_count=class_count)
        limit = {"client_timeout": self._timeout} if self._protocol == "grpc" else {}
        result = self._ask(lambda: self._client.infer(self._model, [tensor], outputs=[wanted], **limit))
        return result.as_numpy(self._output)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    @property
    def _where(self) -> str:
        return f"{self._protocol}://{self._url}/{self._model}"

    def _connect(self) -> Any:
        if self._protocol == "grpc":
            return self._library.InferenceServerClient(self._url)
        return self._library.InferenceServerClient(
            self._url, connection_timeout=CONNECT_SECONDS, network_timeout=self._timeout
        )

    def _ask(self, call: Callable[[], T]) -> T:
        """Call the library; whatever it raises about the server becomes one line."""
        from tritonclient.utils import InferenceServerException

        try:
            return call()
        except InferenceServerException as error:
            status, said = error.status() or "", " ".join(str(error.message()).split())
            if "UNAVAILABLE" in status and "failed to connect" in said.lower():
                raise RiceError(f"{self._where}: no server answers there", 1) from None
            if "DEADLINE" in status:
                raise RiceError(f"{self._where}: no answer within {self._timeout:g} s", 1) from None
            raise RiceError(f"{self._where}: {said} {f'[{status}]' if status else ''}".rstrip(), 1) from None
        except TimeoutError:
            raise RiceError(f"{self._where}: no answer within {self._timeout:g} s", 1) from None
        except ConnectionRefusedError:
            raise RiceError(f"{self._where}: no server answers there", 1) from None
        except (OSError, HTTPException) as error:
            raise RiceError(f"{self._where}: the connection failed ({error})", 1) from None


def answer_to(url: str, model: str, protocol: Protocol, pixels: np.ndarray, tensor: str = "images") -> tuple[str, str]:
    """What a server says to any tensor at all, fit for the model or not.

    Args:
        url: `host:port` of the endpoint of that protocol.
        model: the model asked for.
        protocol: `http` or `grpc`.
        pixels: an array of any shape and dtype.
        tensor: the input's name in the request.

    Returns:
        The status (`200` or `OK` where the server answered; else as `400` or `INVALID_ARGUMENT`) and the
        server's message, on one line.
    """
    from tritonclient.utils import InferenceServerException, np_to_triton_dtype

    library = import_tritonclient(protocol)
    with library.InferenceServerClient(url) as client:
        request = library.InferInput(tensor, list(pixels.shape), np_to_triton_dtype(pixels.dtype))
        request.set_data_from_numpy(pixels)
        limit = {"client_timeout": TIMEOUT_SECONDS} if protocol == "grpc" else {}
        try:
            client.infer(model, [request], **limit)
        except InferenceServerException as error:
            status = (error.status() or "").removeprefix("StatusCode.")
            return status, " ".join(str(error.message()).split())
    return ("200" if protocol == "http" else "OK"), ""


def import_tritonclient(protocol: str) -> ModuleType:
    """`tritonclient.http` or `tritonclient.grpc`, or a `RiceError` that says what to install."""
    if protocol not in ("http", "grpc"):
        raise RiceError(f"protocol {protocol!r}: choose http or grpc")
    try:
        if protocol == "http":
            import tritonclient.http as library
        else:
            import tritonclient.grpc as library
    except ImportError:
        raise RiceError("tritonclient is not installed: pip install 'rice-lib[serve]'") from None
    return library


def _check_config(config: dict[str, Any], where: str) -> tuple[str, str]:
    """Names of the one input and the one output of a model of this project."""
    inputs, outputs = config.get("input", []), config.get("output", [])
    fits = (
        len(inputs) == len(outputs) == 1
        and inputs[0]["data_type"] == "TYPE_UINT8"
        and [int(side) for side in inputs[0]["dims"]] == [IMAGE_SIZE, IMAGE_SIZE, 3]
        and outputs[0]["data_type"] == "TYPE_FP32"
        and int(config.get("max_batch_size", 0)) > 0
    )
    if not fits:
        raise RiceError(f"{where}: not a model of this project: wants uint8 [{IMAGE_SIZE}, {IMAGE_SIZE}, 3] in batches")
    return inputs[0]["name"], outputs[0]["name"]


def _text(cell: Any) -> str:
    return cell.decode() if isinstance(cell, bytes) else str(cell)
