"""A server under load: many clients at once, each with the next request when the last is answered.

The client is cheap, because it shares the server's cores: requests are put together beforehand, and sent by Python's
own HTTP client, one connection a thread.
"""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from rice_lib.backends.triton import import_tritonclient
from rice_lib.common.errors import RiceError
from rice_lib.serving.config import FILE, INPUT, OUTPUT

WARM_UP_S = 1.0
"""Seconds of load before a measurement begins."""

TIMEOUT_S = 120.0
"""Limit of one request: 64 clients with 32 images each wait for the 2,000 images before them."""

BYTES_OUTPUTS = ("variety", "confidence", "scores", "reason", "notes", "error")
"""What the clients ask of the ensemble: all that `rice infer` writes, each once."""

HEADER_LENGTH = "Inference-Header-Content-Length"

Rows = np.ndarray | Sequence[bytes]
"""Images of requests: uint8 pixels `[N, 224, 224, 3]` for the classifier, files' bytes for the ensemble."""


@dataclass(frozen=True)
class Body:
    """A request, put together."""

    data: bytes
    header_length: int | str | None
    """Bytes of JSON before the tensors' own; None: all of it is JSON."""

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that go with it."""
        return {} if self.header_length is None else {HEADER_LENGTH: str(self.header_length)}


@dataclass
class Counts:
    """What the clients of one measurement saw: seconds of each answered request, and what was said to the others."""

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
    library = import_tritonclient("http")
    if isinstance(rows[0], bytes):
        name, kind, values = FILE, "BYTES", np.array(rows, np.object_)[:, None]
    else:
        name, kind, values = INPUT, "UINT8", np.stack(list(rows))
    tensor = library.InferInput(name, list(values.shape), kind)
    tensor.set_data_from_numpy(values)
    wanted = BYTES_OUTPUTS if name == FILE else (OUTPUT,)
    outputs = [library.InferRequestedOutput(output, binary_data=True) for output in wanted]
    return Body(*library.InferenceServerClient.generate_request_body([tensor], outputs=outputs))


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
    """Measure a running server's rate under one load.

    Args:
        address: `host:port` of its HTTP endpoint.
        model: the model that is called.
        requests: what is sent, in turn, `batch` images each.
        concurrency: clients at once.
        batch: images of one request.
        seconds: how long to count, after a second that is not counted.
        watch: reads counters of the caller's own, when counting begins and when it ends.

    Returns:
        `images_per_s`; `p50_ms`, `p90_ms`, `p99_ms` of a request; `requests` counted and those `failed`, with what was
        said to the first (`failure`); `client_cpu_ms` an image; and what `watch` read (`watched`, a pair).

    Raises:
        RiceError: no server answers there, it broke a connection, or no request was answered in the time.
    """
    with Clients(address, [(model, request) for request in requests], concurrency) as clients:
        time.sleep(WARM_UP_S)
        before, own = watch(), time.process_time()
        clients.counts, began = Counts(), time.perf_counter()
        time.sleep(seconds)
        counts, elapsed = clients.counts, time.perf_counter() - began
        done, failure = len(counts.seconds), next(iter(counts.failures), None)
        failed, own, after = len(counts.failures), time.process_time() - own, watch()
    if not done:
        raise RiceError(f"{model} on {address} answered {failure or 'nothing in time; measure for longer'}", 1)
    images = done * batch
    quantiles = np.percentile(counts.seconds[:done], [50, 90, 99]) * 1e3
    return {
        "model": model,
        "concurrency": concurrency,
        "batch": batch,
        "images_per_s": images / elapsed,
        **dict(zip(("p50_ms", "p90_ms", "p99_ms"), quantiles.tolist(), strict=True)),
        "requests": done,
        "failed": failed,
        "failure": failure,
        "client_cpu_ms": own / images * 1e3,
        "watched": (before, after),
    }


class Clients:
    """Threads that send requests, in turn, for as long as the context is open."""

    def __init__(
        self,
        address: str,
        requests: Sequence[tuple[str, Body]],
        concurrency: int,
        seen: Callable[[str, bytes], object] | None = None,
    ) -> None:
        """Prepare `concurrency` threads for requests, each with its model's name; `seen` is called with the answers."""
        self.counts = Counts()
        self._address, self._requests, self._seen = address, requests, seen
        self._turn = itertools.count()
        self._over = threading.Event()
        self._broken: Exception | None = None
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(concurrency)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the threads; raises `RiceError` where the server broke a connection."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self._broken is not None and error[0] is None:
            raise RiceError(f"the connection to {self._address} failed ({self._broken})", 1)

    def _work(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
        try:
            while not self._over.is_set():
                self._send(connection, *self._requests[next(self._turn) % len(self._requests)])
        except (OSError, http.client.HTTPException) as error:
            self._broken = error
        finally:
            connection.close()

    def _send(self, connection: http.client.HTTPConnection, model: str, request: Body) -> None:
        began = time.perf_counter()
        connection.request("POST", f"/v2/models/{model}/infer", body=request.data, headers=request.headers)
        response = connection.getresponse()
        data = response.read()
        counts = self.counts  # of the measurement that is under way now
        if response.status != 200:
            counts.failures.append(f"{response.status} {data[:200].decode(errors='replace')}")
            return
        counts.seconds.append(time.perf_counter() - began)
        if self._seen is not None:
            self._seen(model, data)
