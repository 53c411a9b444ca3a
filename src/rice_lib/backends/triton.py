"""A model on a Triton server, asked over HTTP or gRPC.

Labels, tensor names, largest batch and version are read from the server: a client needs an address and a name.
tritonclient is imported when a client is opened.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np

from rice_lib.backends.predictor import MIN_SHARE, Predictor, parse_decision
from rice_lib.backends.triton_connection import (
    IN_FLIGHT,
    Connection,
    Protocol,
    ServerError,
    VersionGoneError,
    import_tritonclient,
    make_input,
    parameter,
    read_labels,
)
from rice_lib.common.errors import RiceError
from rice_lib.contract.decision import KEY
from rice_lib.contract.decode import IMAGE_SIZE

__all__ = ["Protocol", "TritonPredictor", "answer_to", "import_tritonclient", "make_input"]


class TritonPredictor(Predictor):
    """A model on a server.

    The logits of one call are all of one `version`, and `labels` and `decision` are that version's. Where the server
    switches versions, the next call uses the new one.
    """

    version: str
    """The one that answers; empty where the server's configuration does not say."""

    def __init__(self, url: str, model: str, protocol: Protocol = "http") -> None:
        """Connect to a model at `host:port`; raises `RiceError` where there is none, or none of this project."""
        self._connection = Connection(protocol, url, model)
        self.name = f"triton/{protocol}"
        self.labels = ()
        try:
            self._adopt(self._connection.config())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def _forward_all(self, pixels: np.ndarray) -> np.ndarray:
        """Compute the logits of any number of images, by requests of at most `max_batch`, several in flight."""
        try:
            shares = max(-(-len(pixels) // self.max_batch), min(IN_FLIGHT, len(pixels) // MIN_SHARE))
            parts = np.array_split(pixels, shares)
            sent = [self._connection.infer(self.version, self._input, part, [self._output]) for part in parts]
            logits = np.concatenate([response.result().as_numpy(self._output) for response in sent])
        except VersionGoneError as gone:
            self._adopt(gone.config)
            return self._forward_all(pixels)
        if logits.shape != (len(pixels), len(self.labels)):
            raise RiceError(f"{self._connection.where}: {logits.shape} logits came back for {len(pixels)} images", 1)
        return logits

    _forward = _forward_all

    def _adopt(self, config: dict[str, Any]) -> None:
        """Take labels, decision, limits and version from the model's configuration."""
        where = f"the configuration of {self._connection.where}"
        self._input, self._output = _check_config(config, self._connection.where)
        labels, limit = read_labels(config, where, self.labels), int(config["max_batch_size"])
        self.decision = parse_decision(parameter(config, KEY), where, labels)
        self.max_batch = min(self.max_batch, limit) if self.labels else limit
        self.labels, self.version = labels, parameter(config, "version")


def answer_to(url: str, model: str, protocol: Protocol, pixels: np.ndarray, tensor: str = "images") -> tuple[str, str]:
    """Send any tensor to a server; returns the status (`200`, `OK`, `400`, `INVALID_ARGUMENT`) and the message."""
    with closing(Connection(protocol, url, model)) as connection:
        try:
            connection.infer("", tensor, pixels).result()
        except ServerError as error:
            return error.code, error.why
    return ("200" if protocol == "http" else "OK"), ""


def _check_config(config: dict[str, Any], where: str) -> tuple[str, str]:
    """Read the names of the one input and the one output; raises `RiceError` where it is no model of ours."""
    inputs, outputs = config.get("input", []), config.get("output", [])
    types = [each["data_type"] for each in inputs]
    if types[:1] == ["TYPE_STRING"]:
        raise RiceError(f"{where}: takes files, and this command sends pixels; name the model without _bytes")
    takes = types == ["TYPE_UINT8"] and [int(side) for side in inputs[0]["dims"]] == [IMAGE_SIZE, IMAGE_SIZE, 3]
    gives = [each["data_type"] for each in outputs] == ["TYPE_FP32"]
    if not (takes and gives and int(config.get("max_batch_size", 0)) > 0):
        raise RiceError(f"{where}: not a model of this project: wants uint8 [{IMAGE_SIZE}, {IMAGE_SIZE}, 3] in batches")
    return inputs[0]["name"], outputs[0]["name"]
