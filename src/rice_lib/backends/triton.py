"""A model on a Triton server as a `Predictor`, over HTTP or gRPC.

Everything about the model (labels, tensor names, largest batch, the version that answers) is read from the server, so
a client needs an address and a name. Where the server goes over to another version, or is away for a while, the
client goes on (`rice_lib.backends.triton_connection`). The library is imported when a client is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from rice_lib.backends.predictor import MIN_SHARE, Predictor, parse_decision, parse_labels
from rice_lib.backends.triton_connection import (
    IN_FLIGHT,
    TIMEOUT_SECONDS,
    Connection,
    Protocol,
    import_tritonclient,
    version_of,
)
from rice_lib.backends.triton_retry import PATIENCE_S, VersionGoneError
from rice_lib.common.errors import RiceError
from rice_lib.contract.decision import KEY
from rice_lib.contract.decode import IMAGE_SIZE

T = TypeVar("T")


class TritonPredictor(Predictor):
    """A model on a server.

    Logits are always those of `version`, and `labels` and `decision` are that version's; after a call they may be
    those of a newer one than before it.
    """

    version: str
    """The one that answers, as the server's configuration says; empty where that does not say."""

    def __init__(
        self,
        url: str,
        model: str,
        protocol: Protocol = "http",
        timeout_s: float = TIMEOUT_SECONDS,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Connect and read the model's configuration.

        Args:
            url: `host:port` of the server's HTTP or gRPC endpoint.
            model: the model's name there.
            protocol: `http` or `grpc`.
            timeout_s: seconds that one try of a request may take.
            patience_s: seconds that a server that has answered may be away before a request is given up.

        Raises:
            RiceError: no server there, no such model, or not a model of this project.
        """
        library = import_tritonclient(protocol)
        self._connection = Connection(library, protocol, url, model, timeout_s=timeout_s, patience_s=patience_s)
        self.name = f"triton/{protocol}"
        self.labels = ()
        try:
            self._take(self.config())
        except BaseException:
            self.close()
            raise

    def config(self) -> dict[str, Any]:
        """The model's configuration as the server gives it."""
        return self._connection.config()

    def metadata(self) -> dict[str, Any]:
        """The model's metadata: `name`, `versions`, `platform`, `inputs`, `outputs`."""
        return self._connection.metadata()

    def server(self) -> str:
        """Name and version of the server."""
        return self._connection.server()

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
        answer = self._at_one_version(lambda: self._infer([pixels], count)[0])
        rows = [[_text(cell).split(":", 2) for cell in row] for row in answer.reshape(len(pixels), count)]
        return [[(float(score), int(number), label) for score, number, label in row] for row in rows]

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def _forward_all(self, pixels: np.ndarray) -> np.ndarray:
        return self._at_one_version(lambda: self._gather(pixels))

    def _forward(self, pixels: np.ndarray) -> np.ndarray:
        return self._forward_all(pixels)

    def _gather(self, pixels: np.ndarray) -> np.ndarray:
        """Logits of any number of images, all of one version: shares of at most `max_batch`, `IN_FLIGHT` at once."""
        shares = max(-(-len(pixels) // self.max_batch), min(IN_FLIGHT, len(pixels) // MIN_SHARE))
        logits = np.concatenate(self._infer(np.array_split(pixels, shares)))
        if logits.shape != (len(pixels), len(self.labels)):
            raise RiceError(f"{self._connection.where}: {logits.shape} logits came back for {len(pixels)} images", 1)
        return logits

    def _infer(self, parts: list[np.ndarray], class_count: int = 0) -> list[np.ndarray]:
        wanted = {self._output: class_count}
        asked = [self._connection.infer(self.version, self._input, part, wanted) for part in parts]
        return [answer.result().as_numpy(self._output) for answer in asked]

    def _at_one_version(self, ask: Callable[[], T]) -> T:
        while True:
            try:
                return ask()
            except VersionGoneError as gone:
                self._take(gone.config)

    def _take(self, config: dict[str, Any]) -> None:
        """Make what a configuration says of the model one's own."""
        where = f"{self._connection.model} on {self._connection.address}"
        self._input, self._output = _check_config(config, where)
        parameters, where = config.get("parameters", {}), f"the configuration of {where}"
        labels = parse_labels(parameters.get("labels", {}).get("string_value"), where)
        if self.labels and labels != self.labels:
            raise RiceError(f"{where}: the server went over to a model of other labels; start again", 1)
        self.decision = parse_decision(parameters.get(KEY, {}).get("string_value"), where, labels)
        limit = int(config["max_batch_size"])
        self.max_batch = min(self.max_batch, limit) if self.labels else limit
        self.labels, self.version = labels, version_of(config)


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
