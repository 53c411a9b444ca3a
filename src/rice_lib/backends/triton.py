"""A model on a Triton server, over HTTP or gRPC: several requests in flight, sent again while the server is away.

Labels, tensor names, largest batch and version are read from the server: a client needs an address and a name.
tritonclient is imported when a client is opened.

One loop repeats requests of both protocols: gRPC's own retry policy ends after five attempts, repeats no request for a
model that is still loading, and says nothing to the person who waits.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from importlib import import_module
from types import ModuleType
from typing import Any, Literal, TypeVar

import numpy as np

from rice_lib.backends.predictor import MIN_SHARE, Predictor, parse_decision, parse_labels
from rice_lib.common.errors import RiceError
from rice_lib.contract.decision import KEY
from rice_lib.contract.decode import IMAGE_SIZE

Protocol = Literal["http", "grpc"]
T = TypeVar("T")

PROTOCOLS: dict[str, Protocol] = {"triton": "http", "triton+grpc": "grpc"}

TIMEOUT_S, CONNECT_S = 60.0, 10.0
"""Limits of one request and of a connection: a batch of 256 through a ViT-B takes half a minute on two cores."""
PATIENCE_S, NOTICE_S = 60.0, 1.0
"""How long a server may be away (a restart with a large model takes half a minute), and from when on it is reported."""
FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 2.0
"""Delays before the next attempt double from the one to the other."""
IN_FLIGHT = 4
"""Requests sent at once: enough for a server to compute one batch while it gathers the next."""

_MISSING = ("unknown model", "no available versions", "not at ready state", "is not ready")
_AWAY = ("exceeds maximum queue size", "is not healthy")
"""What the server says, in part, of a model that is not there, and of one that cannot answer now: its queue is full, or
a worker has died ("Stub process 'rice_v1_decode_0_1' is not healthy.") and is about to be started again."""

_CHANNEL = [
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    # by default a channel waits up to two minutes before it connects again
    ("grpc.initial_reconnect_backoff_ms", int(FIRST_DELAY_S * 1000)),
    ("grpc.max_reconnect_backoff_ms", int(LONGEST_DELAY_S * 1000)),
]


def channel_options(address: str) -> list[tuple[str, int]]:
    """Make the options of a gRPC channel; one to this machine goes through no proxy, whatever the environment says."""
    host = address.rpartition(":")[0]
    return [*_CHANNEL, ("grpc.enable_http_proxy", 0)] if host == "localhost" or host.startswith("127.") else _CHANNEL


class ServedModel:
    """What every client of a model on a server has: it is of one version at a time. Call `close` at the end."""

    labels: tuple[str, ...] = ()
    """Class names in the order of logits and scores."""
    max_batch: int
    """Most images of one request."""
    version: str
    """The one that answers; empty where the server's configuration does not say. It changes with the server's."""

    def __init__(self, protocol: Protocol, address: str, model: str, *limits: float) -> None:
        self._connection = Connection(protocol, address, model, *limits)
        self.name = f"triton/{protocol}"
        try:
            self._adopt(self._connection.config())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def _adopt(self, config: dict[str, Any]) -> None:
        """Take labels, limits and version from the model's configuration; raises `RiceError` for other labels."""
        where = f"the configuration of {self._connection.where}"
        labels = parse_labels(parameter(config, "labels"), where)
        if self.labels and labels != self.labels:
            raise RiceError(f"{where}: the server has switched to a model of other labels; run the command again", 1)
        self.labels, self.version = labels, parameter(config, "version")
        self._input, self.max_batch = config["input"][0]["name"], int(config["max_batch_size"])


class TritonPredictor(ServedModel, Predictor):
    """A model on a server.

    The logits of one call are all of one `version`, and `labels` and `decision` are that version's. Where the server
    switches versions, the next call uses the new one.
    """

    def __init__(self, url: str, model: str, protocol: Protocol = "http") -> None:
        """Connect to a model at `host:port`; raises `RiceError` where there is none, or none of this project."""
        super().__init__(protocol, url, model)

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
        """Take the decision, too."""
        self._output = _check_config(config, self._connection.where)
        super()._adopt(config)
        where = f"the configuration of {self._connection.where}"
        self.decision = parse_decision(parameter(config, KEY), where, self.labels)


class ServerError(RiceError):
    """A request without the response that was asked for: what happened, the server's code, and whether it may pass."""

    def __init__(self, where: str, why: str, code: str = "", *, temporary: bool = True) -> None:
        super().__init__(f"{where}: {why}{f' [{code}]' if code else ''}", 1)
        self.why, self.code, self.temporary = why, code, temporary


class VersionGoneError(Exception):
    """The version that was asked is no longer served; `config` is the model's configuration now."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config


class Connection:
    """A model's endpoint, for any thread; `IN_FLIGHT` threads of its own send the requests.

    A prediction changes nothing on the server, so a request that has lost its response is sent again. Until the server
    has answered once, a fault is raised at once.
    """

    def __init__(
        self, protocol: Protocol, address: str, model: str, timeout_s: float = TIMEOUT_S, patience_s: float = PATIENCE_S
    ) -> None:
        """Name a model at `host:port`; nothing is sent yet.

        An attempt may take `timeout_s` seconds, and attempts end `patience_s` seconds after the first fault. Raises
        `RiceError` where the address has a scheme or a path, or tritonclient is not installed.
        """
        if "/" in address:
            raise RiceError(f"{address}: write a server's address as host:port, without a scheme")
        self.where, self.model = f"{protocol}://{address}/{model}", model
        self._library = import_tritonclient(protocol)
        self._client = (_Grpc if protocol == "grpc" else _Http)(self._library, address, model, timeout_s)
        self._timeout, self._patience = timeout_s, patience_s
        self._threads = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="triton")
        self._stopped, self._lock = threading.Event(), threading.Lock()
        self._answered = self._noticed = False

    def config(self) -> dict[str, Any]:
        """Read the model's configuration; raises `ServerError`."""
        return self._threads.submit(self._retry, self._client.config).result()

    def infer(self, version: str, tensor: str, values: np.ndarray, outputs: Sequence[str] = ()) -> Future[Any]:
        """Send a request; returns at once tritonclient's `InferResult`, `VersionGoneError` or `ServerError` to come.

        Args:
            version: of the model; empty leaves it to the server.
            tensor: name of the input.
            values: of any shape and dtype that the model takes; objects are `bytes`.
            outputs: names of those that are wanted; by default all.
        """
        sent = make_input(self._library, tensor, values)
        wanted = [self._library.InferRequestedOutput(name) for name in outputs]

        def attempt() -> Any:
            try:
                return self._client.infer(version, [sent], wanted)
            except Exception as error:
                if version and _is_missing(error):
                    config = self._client.config()
                    if parameter(config, "version") != version:
                        raise VersionGoneError(config) from None
                raise

        return self._threads.submit(self._retry, attempt)

    def close(self) -> None:
        """Close the connections; requests in flight end without a response."""
        self._stopped.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _retry(self, attempt: Callable[[], T]) -> T:
        from tritonclient.utils import InferenceServerException

        began, delay = None, FIRST_DELAY_S
        while True:
            try:
                value = attempt()
            except (InferenceServerException, OSError, HTTPException) as lost:
                error, now = self._fault(lost), time.monotonic()
                began = now if began is None else began
                if not (self._answered and error.temporary):
                    raise error from None
                if now - began >= self._patience:
                    why = f"{error.why} (tried for {now - began:.0f} s)"
                    raise ServerError(self.where, why, error.code) from None
                if now - began >= NOTICE_S:
                    self._notice(True, f"{error.why}; waiting up to {self._patience:g} s for it")
                # random, so that clients that lost a server together do not come back together
                if self._stopped.wait(min(delay * random.uniform(0.5, 1), self._patience - (now - began))):
                    raise error from None
                delay = min(2 * delay, LONGEST_DELAY_S)
            else:
                self._answered = True
                self._notice(False, "answers again")
                return value

    def _notice(self, away: bool, text: str) -> None:
        """Print a line where the server has become reachable or unreachable since the last."""
        with self._lock:
            if self._noticed != away:
                self._noticed = away
                print(f"{self.where}: {text}", file=sys.stderr)

    def _fault(self, error: Any) -> ServerError:
        """Describe what an attempt raised about the server."""
        code, why, temporary = "", f"the connection failed ({error})", True
        if not isinstance(error, OSError | HTTPException):  # InferenceServerException
            code, why = (error.status() or "").removeprefix("StatusCode."), " ".join(str(error.message()).split())
            away = code in ("UNAVAILABLE", "CANCELLED", "503") or any(text in why.lower() for text in _AWAY)
            temporary = away or _is_missing(error)
        if isinstance(error, TimeoutError) or code == "DEADLINE_EXCEEDED":
            code, why, temporary = "", f"no answer within {self._timeout:g} s", True
        if isinstance(error, ConnectionRefusedError) or (code == "UNAVAILABLE" and "failed to connect" in why.lower()):
            code, why = "", "no server answers there"
        return ServerError(self.where, why, code, temporary=temporary)


class _Grpc:
    def __init__(self, library: ModuleType, address: str, model: str, timeout_s: float) -> None:
        self._client = library.InferenceServerClient(address, channel_args=channel_options(address))
        self._model, self._timeout = model, timeout_s

    def config(self) -> dict[str, Any]:
        return self._client.get_model_config(self._model, as_json=True, client_timeout=self._timeout)["config"]

    def infer(self, version: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        return self._client.infer(
            self._model, inputs, model_version=version, outputs=outputs or None, client_timeout=self._timeout
        )

    def close(self) -> None:
        self._client.close()


class _Http:
    """Requests encoded by tritonclient, sent over one kept connection a thread.

    tritonclient's own HTTP client belongs to the thread that made it, and keeps gevent's files open for each.
    """

    def __init__(self, library: ModuleType, address: str, model: str, timeout_s: float) -> None:
        self._coder, self._address, self._timeout = library.InferenceServerClient, address, timeout_s
        self._path, self._own = f"/v2/models/{model}", threading.local()
        self._connections: list[HTTPConnection] = []

    def config(self) -> dict[str, Any]:
        return json.loads(self._request("GET", f"{self._path}/config")[0])

    def infer(self, version: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        data, json_size = self._coder.generate_request_body(inputs, outputs=outputs or None)
        path = f"{self._path}/versions/{version}/infer" if version else f"{self._path}/infer"
        headers = {} if json_size is None else {"Inference-Header-Content-Length": str(json_size)}
        body, length = self._request("POST", path, data, headers)
        return self._coder.parse_response_body(body, header_length=int(length) if length else None)

    def _request(self, method: str, path: str, *data: Any) -> tuple[bytes, str | None]:
        from tritonclient.utils import InferenceServerException

        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = HTTPConnection(self._address, timeout=CONNECT_S)
            self._connections.append(connection)
        try:
            if not hasattr(connection.sock, "settimeout"):
                connection.connect()
                connection.sock.settimeout(self._timeout)
            connection.request(method, path, *data)
            response = connection.getresponse()
            body = response.read()
        except (OSError, HTTPException):
            connection.close()  # the next request opens it again
            raise
        if response.status != 200:
            with suppress(ValueError, TypeError, KeyError):
                body = json.loads(body)["error"].encode()
            raise InferenceServerException(body.decode(errors="replace"), str(response.status))
        return body, response.headers["Inference-Header-Content-Length"]

    def close(self) -> None:
        for connection in self._connections:
            with suppress(OSError, AttributeError):  # closed already, or never open
                connection.sock.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for a response
            connection.close()


def parse_url(url: str) -> tuple[Protocol, str, str]:
    """Split `triton://host:port/name` or `triton+grpc://host:port/name` into protocol, `host:port` and model."""
    scheme, _, rest = url.partition("://")
    if scheme not in PROTOCOLS:
        raise RiceError(f"{url}: unknown scheme; a server is triton://host:port/name or triton+grpc://host:port/name")
    address, _, model = rest.partition("/")
    if not address or not model:
        raise RiceError(f"{url}: write it as {scheme}://host:port/name")
    return PROTOCOLS[scheme], address, model


def parameter(config: Mapping[str, Any], name: str) -> str:
    """Read a parameter (`version`, `labels`, ...) of a model's configuration; empty where it has none."""
    return config.get("parameters", {}).get(name, {}).get("string_value", "")


def make_input(library: ModuleType, name: str, values: np.ndarray) -> Any:
    """Make the `InferInput` of a tensor for `tritonclient.http` or `tritonclient.grpc`; objects are `bytes`."""
    from tritonclient.utils import np_to_triton_dtype

    tensor = library.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    tensor.set_data_from_numpy(values)
    return tensor


def import_tritonclient(protocol: str) -> ModuleType:
    """Import `tritonclient.http` or `tritonclient.grpc`; raises a `RiceError` that says what to install."""
    try:
        return import_module(f"tritonclient.{protocol}")
    except ImportError:
        raise RiceError("tritonclient is not installed: pip install 'rice-lib[serve]'") from None


def _is_missing(error: Exception) -> bool:
    return any(text in str(error).lower() for text in _MISSING)


def _check_config(config: dict[str, Any], where: str) -> str:
    """Read the name of the one output; raises `RiceError` where it is no model of ours."""
    inputs, outputs = config.get("input", []), config.get("output", [])
    types = [each["data_type"] for each in inputs]
    if types[:1] == ["TYPE_STRING"]:
        raise RiceError(f"{where}: takes files, and this command sends pixels; name the model without _bytes")
    takes = types == ["TYPE_UINT8"] and [int(side) for side in inputs[0]["dims"]] == [IMAGE_SIZE, IMAGE_SIZE, 3]
    gives = [each["data_type"] for each in outputs] == ["TYPE_FP32"]
    if not (takes and gives and int(config.get("max_batch_size", 0)) > 0):
        raise RiceError(f"{where}: not a model of this project: wants uint8 [{IMAGE_SIZE}, {IMAGE_SIZE}, 3] in batches")
    return outputs[0]["name"]
