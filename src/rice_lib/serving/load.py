"""A server under load: many clients at once, each with the next request when the last is answered.

The client is cheap, because it shares the server's cores: requests are put together beforehand, headers included, and
sent as they are, one connection a thread. Python's own HTTP client takes seven times as much of a core (0.16 ms a
request in place of 0.02).
"""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from rice_lib.backends.triton import import_tritonclient, make_input
from rice_lib.common.errors import RiceError
from rice_lib.serving.repository import FILE, INPUT, OUTPUT

WARM_UP_S = 1.0  # seconds of load before a measurement begins
TIMEOUT_S = 120.0  # limit of one request: 64 clients with 32 images each wait for the 2,000 images before them
BYTES_OUTPUTS = ("variety", "confidence", "scores", "reason", "notes", "error")
"""What the clients ask of the ensemble: all that `rice infer` writes, each once."""

HEADER_LENGTH = "Inference-Header-Content-Length"

Rows = np.ndarray | Sequence[bytes]
"""Images of requests: uint8 pixels `[N, 224, 224, 3]` for the classifier, files' bytes for the ensemble."""


class Body(NamedTuple):
    """A request, put together."""

    data: bytes
    headers: Mapping[str, str]
    """`HEADER_LENGTH` says how many bytes of JSON come before the tensors' own; without it all is JSON."""


@dataclass
class Counts:
    """What the clients saw so far: seconds of each answered request, and the errors of the others."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def bodies(rows: Rows, batch: int) -> list[Body]:
    """Put together requests of `batch` images each over all rows, the last one filled up from the beginning."""
    return [
        body([rows[number % len(rows)] for number in range(start, start + batch)])
        for start in range(0, len(rows), batch)
    ]


def body(rows: Rows) -> Body:
    """Put together one request for the classifier (pixels) or the ensemble (files)."""
    library, files = import_tritonclient("http"), isinstance(rows[0], bytes)
    values = np.array(rows, np.object_)[:, None] if files else np.stack(list(rows))
    tensor = make_input(library, FILE if files else INPUT, values)
    wanted = [library.InferRequestedOutput(name) for name in (BYTES_OUTPUTS if files else (OUTPUT,))]
    data, length = library.InferenceServerClient.generate_request_body([tensor], outputs=wanted)
    return Body(data, {} if length is None else {HEADER_LENGTH: str(length)})


def send_file(address: str, model: str, data: bytes) -> tuple[int, dict[str, Any]]:
    """Send a file's bytes to the ensemble at `host:port` of HTTP, as `curl --data-binary @grain.jpg` does.

    Returns:
        The status, and the record that `rice infer` prints, or `{"error": why}`.
    """
    with closing(HTTPConnection(address, timeout=TIMEOUT_S)) as connection:
        # a header of no length: the request is the file and nothing else
        connection.request("POST", f"/v2/models/{model}/infer", body=data, headers={HEADER_LENGTH: "0"})
        response = connection.getresponse()
        answer = response.read()
    if response.status != 200:
        return response.status, {"error": json.loads(answer)["error"].removeprefix(f"in ensemble '{model}', ")}
    parse = import_tritonclient("http").InferenceServerClient.parse_response_body
    tensors = parse(answer, header_length=int(response.headers[HEADER_LENGTH]))
    return response.status, json.loads(tensors.as_numpy("record")[0, 0])


def measure_point(
    address: str,
    model: str,
    requests: Sequence[Body],
    *,
    concurrency: int,
    batch: int,
    seconds: float,
    watch: Callable[[], Any] = lambda: None,
) -> dict[str, Any]:
    """Measure the rate of a model on the server at `address` (`host:port` of HTTP) under one load.

    `concurrency` clients send the `requests`, of `batch` images each, in turn. They are counted for `seconds`, after
    one that is not counted; `watch` reads counters of the caller's own when counting begins and when it ends.

    Returns:
        `images_per_s`; `p50_ms`, `p90_ms`, `p99_ms` of a request; `requests` counted and those `failed`, with the first
        error (`failure`); `client_cpu_ms` an image; and what `watch` read (`watched`, a pair).

    Raises:
        RiceError: no server answers there, it broke a connection, or no request was answered in the time.
    """
    with send_requests(address, [(model, request) for request in requests], concurrency) as counts:
        time.sleep(WARM_UP_S)
        before, own = watch(), time.process_time()
        answered, failed, began = len(counts.seconds), len(counts.failures), time.perf_counter()
        time.sleep(seconds)
        durations, failures = counts.seconds[answered:], counts.failures[failed:]
        elapsed, own, after = time.perf_counter() - began, time.process_time() - own, watch()
    failure = failures[0] if failures else None
    if not durations:
        raise RiceError(f"{model} on {address} answered {failure or 'nothing in time; measure for longer'}", 1)
    images = len(durations) * batch
    percentiles = {f"p{each}_ms": float(np.percentile(durations, each)) * 1e3 for each in (50, 90, 99)}
    return {
        "model": model,
        "concurrency": concurrency,
        "batch": batch,
        "images_per_s": images / elapsed,
        **percentiles,
        "requests": len(durations),
        "failed": len(failures),
        "failure": failure,
        "client_cpu_ms": own / images * 1e3,
        "watched": (before, after),
    }


@contextmanager
def send_requests(
    address: str,
    requests: Sequence[tuple[str, Body]],
    concurrency: int,
    seen: Callable[[str, bytes], object] = lambda model, data: None,
) -> Iterator[Counts]:
    """Send requests in turn, each with its model's name, from `concurrency` threads for as long as the context is open.

    Calls `seen` with the model and the data of each response. Raises `RiceError` at the end where the server broke a
    connection.
    """
    counts, turn, over = Counts(), itertools.count(), threading.Event()
    messages = [(model, _message(address, model, request)) for model, request in requests]
    host, _, port = address.rpartition(":")

    def work() -> None:
        with socket.create_connection((host, int(port)), TIMEOUT_S) as connection, connection.makefile("rb") as answers:
            while not over.is_set():
                model, message = messages[next(turn) % len(messages)]
                began = time.perf_counter()
                connection.sendall(message)
                status, data = _read_response(answers)
                if status == 200:
                    counts.seconds.append(time.perf_counter() - began)
                    seen(model, data)
                else:
                    counts.failures.append(f"{status} {data[:200].decode(errors='replace')}")

    with ThreadPoolExecutor(concurrency) as threads:
        working = [threads.submit(work) for _ in range(concurrency)]
        try:
            yield counts
        finally:
            over.set()
    try:
        for thread in working:
            thread.result()
    except OSError as error:
        raise RiceError(f"the connection to {address} failed ({error})", 1) from None


def _message(address: str, model: str, request: Body) -> bytes:
    """Write a request as it goes over the wire."""
    headers = {"Host": address, "Content-Length": len(request.data), **request.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /v2/models/{model}/infer HTTP/1.1\r\n{lines}\r\n".encode() + request.data


def _read_response(stream: BinaryIO) -> tuple[int, bytes]:
    """Read a response of known length: its status and body; raises `OSError` where the server closed the connection."""
    first, lines = stream.readline(), iter(lambda: stream.readline().strip().lower(), b"")
    length = next((int(line.split()[1]) for line in list(lines) if line.startswith(b"content-length:")), 0)
    data = stream.read(length)
    if not first or len(data) < length:
        raise ConnectionResetError("closed by the server")
    return int(first.split()[1]), data
