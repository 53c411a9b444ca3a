"""One model on one Triton server, over HTTP or gRPC: several requests in flight, sent again while the server is away.

What differs between the protocols, what their libraries raise, and which thread may use which client, is known here
and nowhere else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from http.client import HTTPException
from itertools import cycle
from queue import SimpleQueue
from types import ModuleType
from typing import Any, Literal, TypeVar

import numpy as np

from rice_lib.backends.triton_retry import PATIENCE_S, Kind, Retry, ServerError, VersionGoneError
from rice_lib.common.errors import RiceError

Protocol = Literal["http", "grpc"]
T = TypeVar("T")

PROTOCOLS: dict[str, Protocol] = {"triton": "http", "triton+grpc": "grpc"}
"""URL scheme to the protocol that it means."""

TIMEOUT_SECONDS = 60.0
"""Limit of one request: a batch of 256 through a ViT-B takes half a minute on two cores."""

CONNECT_SECONDS = 10.0

IN_FLIGHT = 4
"""Requests sent at once: enough for a server to compute one batch while it gathers the next."""

_MISSING = ("unknown model", "no available versions", "not at ready state", "is not ready")
_AWAY = ("exceeds maximum queue size", "stub process is not healthy")
"""What the server says, in part, of a model that is not there, and of one that cannot answer now."""

_LARGEST_MESSAGE = 2**31 - 1
_CHANNEL = [
    ("grpc.max_send_message_length", _LARGEST_MESSAGE),
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
    # channels otherwise share one connection, and with it the wait of up to two minutes after it has failed
    ("grpc.use_local_subchannel_pool", 1),
]


class Connection:
    """A model's endpoint. Any thread may ask; each request is sent by one of `IN_FLIGHT` threads of its own."""

    def __init__(
        self,
        library: ModuleType,
        protocol: Protocol,
        url: str,
        model: str,
        *,
        timeout_s: float = TIMEOUT_SECONDS,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Name a model; nothing is sent yet.

        Args:
            library: what `import_tritonclient` gives for the protocol.
            protocol: `http` or `grpc`.
            url: `host:port` of that protocol's endpoint.
            model: the model's name there.
            timeout_s: seconds that one try of a request may take.
            patience_s: seconds that a server that has answered before may be away.

        Raises:
            RiceError: the address has a scheme or a path.
        """
        if "/" in url:
            raise RiceError(f"{url}: write a server's address as host:port, without a scheme")
        self.model, self.address = model, url
        self.where = f"{protocol}://{url}/{model}"
        self._library, self._protocol, self._timeout = library, protocol, timeout_s
        self._retry = Retry(self.where, patience_s)
        self._lanes = [_Lane(self._connect, self._leave) for _ in range(IN_FLIGHT)]
        self._turns = cycle(self._lanes)

    def config(self) -> dict[str, Any]:
        """The model's configuration as the server gives it."""
        return self._submit(self._config).result()

    def metadata(self) -> dict[str, Any]:
        """The model's metadata: `name`, `versions`, `platform`, `inputs`, `outputs`."""
        return self._submit(lambda client: client.get_model_metadata(self.model, **self._as_json())).result()

    def server(self) -> str:
        """Name and version of the server."""
        answer = self._submit(lambda client: client.get_server_metadata(**self._as_json())).result()
        return f"{answer['name']} {answer['version']}"

    def infer(self, version: str, tensor: str, values: np.ndarray, outputs: Mapping[str, int]) -> Future[Any]:
        """Ask a version of the model; returns at once.

        Args:
            version: the one to ask; empty leaves it to the server.
            tensor: name of the input.
            values: of any shape and dtype that the model takes; objects are `bytes`.
            outputs: names of the outputs, with the number of classes to tell (0 for the numbers themselves).

        Returns:
            the library's `InferResult`, or what was raised: `VersionGoneError` where the server has gone over to
            another version, `ServerError` where it refused or did not answer.
        """
        from tritonclient.utils import InferenceServerException, np_to_triton_dtype

        request = self._library.InferInput(tensor, list(values.shape), np_to_triton_dtype(values.dtype))
        request.set_data_from_numpy(values)
        wanted = [self._library.InferRequestedOutput(name, class_count=classes) for name, classes in outputs.items()]

        def ask(client: Any) -> Any:
            try:
                return client.infer(self.model, [request], model_version=version, outputs=wanted, **self._limit())
            except InferenceServerException as error:
                if version and self._translate(error).kind is Kind.MISSING:
                    config = self._config(client)
                    if version_of(config) != version:
                        raise VersionGoneError(config) from None
                raise

        return self._submit(ask)

    def close(self) -> None:
        """Let the threads and their clients go; requests under way are left without an answer."""
        self._retry.stop()
        for lane in self._lanes:
            lane.stop()

    def _submit(self, call: Callable[[Any], T]) -> Future[T]:
        lane = next(self._turns)
        return lane.submit(lambda: self._retry(lambda: self._try(lane, call)))

    def _try(self, lane: _Lane, call: Callable[[Any], T]) -> T:
        """One try; whatever the library raises about the server becomes a `ServerError`."""
        from tritonclient.utils import InferenceServerException

        try:
            return call(lane.client())
        except (InferenceServerException, OSError, HTTPException) as error:
            fault = self._translate(error)
            if fault.kind is Kind.AWAY:
                lane.hang_up()
            raise fault from None

    def _translate(self, error: Exception) -> ServerError:
        from tritonclient.utils import InferenceServerException

        late = f"no answer within {self._timeout:g} s"
        if isinstance(error, InferenceServerException):
            status, said = error.status() or "", " ".join(str(error.message()).split())
            kind = _kind(status, said.lower())
            if "UNAVAILABLE" in status and "failed to connect" in said.lower():
                return ServerError(self.where, "no server answers there", kind)
            if "DEADLINE" in status:
                return ServerError(self.where, late, kind)
            return ServerError(self.where, f"{said} {f'[{status}]' if status else ''}".rstrip(), kind)
        if isinstance(error, TimeoutError):
            return ServerError(self.where, late, Kind.AWAY)
        if isinstance(error, ConnectionRefusedError):
            return ServerError(self.where, "no server answers there", Kind.AWAY)
        return ServerError(self.where, f"the connection failed ({error})", Kind.AWAY)

    def _connect(self) -> Any:
        if self._protocol == "grpc":
            return self._library.InferenceServerClient(self.address, channel_args=_CHANNEL)
        return self._library.InferenceServerClient(
            self.address, connection_timeout=CONNECT_SECONDS, network_timeout=self._timeout
        )

    def _leave(self) -> None:
        """What a thread does last: gevent, beneath the HTTP client, keeps files open for each that used it."""
        if self._protocol == "http":
            import gevent

            gevent.get_hub().destroy(destroy_loop=True)

    def _config(self, client: Any) -> dict[str, Any]:
        answer = client.get_model_config(self.model, **self._as_json())
        return answer["config"] if self._protocol == "grpc" else answer

    def _limit(self) -> dict[str, Any]:
        return {"client_timeout": self._timeout} if self._protocol == "grpc" else {}

    def _as_json(self) -> dict[str, Any]:
        return {"as_json": True, **self._limit()} if self._protocol == "grpc" else {}


class _Lane:
    """A thread with a client of its own: one of tritonclient's HTTP clients belongs to the thread that made it.

    A daemon, as it may be in the middle of a request when the process ends.
    """

    def __init__(self, connect: Callable[[], Any], leave: Callable[[], None]) -> None:
        self._connect, self._leave = connect, leave
        self._client: Any = None
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="triton", daemon=True)
        self._starting = threading.Lock()

    def submit(self, act: Callable[[], T]) -> Future[T]:
        """Have the thread do something, after what it has to do already."""
        future: Future[T] = Future()

        def work() -> None:
            try:
                future.set_result(act())
            except BaseException as error:  # whoever waits for the answer raises it
                future.set_exception(error)

        with self._starting:
            if self._thread.ident is None:
                self._thread.start()
        self._work.put(work)
        return future

    def client(self) -> Any:
        """The client; only for what the thread does."""
        if self._client is None:
            self._client = self._connect()
        return self._client

    def hang_up(self) -> None:
        """Drop the client; the next use makes another."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):  # it is of no more use, whatever it says
                client.close()

    def stop(self) -> None:
        """Let the thread go; it is waited for no longer than an idle one takes."""
        self._work.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout=1)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
        self.hang_up()
        self._leave()


def parse_url(url: str) -> tuple[Protocol, str, str]:
    """Protocol, `host:port` and model of `triton://host:port/name` or `triton+grpc://host:port/name`.

    Raises:
        RiceError: another scheme, or a part is missing.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in PROTOCOLS:
        raise RiceError(f"{url}: unknown scheme; a server is triton://host:port/name or triton+grpc://host:port/name")
    address, _, model = rest.partition("/")
    if not address or not model:
        raise RiceError(f"{url}: write it as {scheme}://host:port/name")
    return PROTOCOLS[scheme], address, model


def version_of(config: Mapping[str, Any]) -> str:
    """The version that answers, as a model's configuration has it; empty where it does not say."""
    return config.get("parameters", {}).get("version", {}).get("string_value", "")


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


def _kind(status: str, said: str) -> Kind:
    if any(text in said for text in _MISSING):
        return Kind.MISSING
    lost = any(word in status for word in ("DEADLINE", "UNAVAILABLE", "CANCELLED", "503"))
    return Kind.AWAY if lost or any(text in said for text in _AWAY) else Kind.REFUSED
