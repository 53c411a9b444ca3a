"""A server under load: many clients at once, each with the next request when the last is answered.

The client is made cheap, because it shares the server's cores: requests are put together beforehand, and sent by
Python's own HTTP client, one connection a thread.
"""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rice_lib.backends.triton import import_tritonclient
from rice_lib.common.errors import RiceError
from rice_lib.serving.config import FILE, INPUT, OUTPUT
from rice_lib.serving.processes import cpu_seconds

WARM_UP_S = 1.0
"""Seconds of load before a measurement begins."""

TIMEOUT_S = 120.0
"""Limit of one request: 64 clients with 32 images each wait for the 2,000 images before them."""

BYTES_OUTPUTS = ("variety", "confidence", "scores", "reason", "notes", "error")
"""What the clients ask of the ensemble: all that `rice infer` tells, each once."""

HEADER_LENGTH = "Inference-Header-Content-Length"

Rows = np.ndarray | Sequence[bytes]
"""Images to ask about: uint8 pixels `[N, 224, 224, 3]` for the tensor model, files' bytes for the ensemble."""


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
    """What the clients of one measurement saw."""

    seconds: list[float] = field(default_factory=list)
    """Of each request that was answered, in order of the answers."""
    refused: list[str] = field(default_factory=list)
    """What was said to the others."""


def bodies(rows: Rows, batch: int) -> list[Body]:
    """Requests of `batch` images each that together go over all rows, the last one filled up from the beginning.

    Raises:
        RiceError: tritonclient is not installed.
    """
    return [
        body([rows[number % len(rows)] for number in range(start, start + batch)])
        for start in range(0, len(rows), batch)
    ]


def body(rows: Rows) -> Body:
    """One request for the tensor model (pixels) or the ensemble (files)."""
    library = import_tritonclient("http")
    if isinstance(rows[0], bytes):
        tensor = library.InferInput(FILE, [len(rows), 1], "BYTES")
        tensor.set_data_from_numpy(np.array(rows, np.object_)[:, None])
        wanted: Sequence[str] = BYTES_OUTPUTS
    else:
        pixels = np.stack(list(rows))
        tensor = library.InferInput(INPUT, list(pixels.shape), "UINT8")
        tensor.set_data_from_numpy(pixels)
        wanted = (OUTPUT,)
    outputs = [library.InferRequestedOutput(name, binary_data=True) for name in wanted]
    return Body(*library.InferenceServerClient.generate_request_body([tensor], outputs=outputs))


def measure_grid(
    address: str,
    model: str,
    rows: Rows,
    *,
    concurrencies: Sequence[int],
    batches: Sequence[int],
    seconds: float,
    pid: int | None = None,
) -> list[dict[str, Any]]:
    """`measure_point` at every concurrency and batch, one after the other.

    Returns:
        One record a point, fit for `pandas.DataFrame` and `rice_lib.report.figures.lines` (x `concurrency`, y
        `images_per_s`, hue `series`).
    """
    requests = {batch: bodies(rows, batch) for batch in batches}
    return [
        measure_point(address, model, requests[batch], concurrency=concurrency, batch=batch, seconds=seconds, pid=pid)
        for batch, concurrency in itertools.product(batches, concurrencies)
    ]


def measure_point(
    address: str,
    model: str,
    requests: Sequence[Body],
    *,
    concurrency: int,
    batch: int,
    seconds: float,
    pid: int | None = None,
) -> dict[str, Any]:
    """A running server's rate under one load.

    Args:
        address: `host:port` of its HTTP endpoint.
        model: the model asked.
        requests: what is asked, in turn.
        concurrency: clients at once.
        batch: images of one request.
        seconds: how long to count, after a second of the same load that is not.
        pid: the server's process, where it is on this machine: its CPU time is counted too.

    Returns:
        `images_per_s`; `p50_ms`, `p90_ms`, `p99_ms` of a request; `requests` counted and those `failed`, with what was
        said to the first (`failure`); `client_cpu_ms` an image; `queue_ms` and `compute_ms` of a request, all models
        it goes through together, and `executed_batch`, mean images of one execution, by model, from the server's own
        statistics; `cpu_ms` an image by process, where `pid` is given.

    Raises:
        RiceError: no server answers there, it broke a connection, or no request was answered in the time.
    """
    with _Clients(address, model, requests, concurrency) as clients:
        time.sleep(WARM_UP_S)
        before, spent, own = statistics(address), cpu_seconds(pid), time.process_time()
        clients.counts, began = Counts(), time.perf_counter()
        time.sleep(seconds)
        counts, elapsed = clients.counts, time.perf_counter() - began
        done, failed = len(counts.seconds), len(counts.refused)
        own, after = time.process_time() - own, statistics(address)
        spent = {name: used - spent.get(name, 0.0) for name, used in cpu_seconds(pid).items()}
    if not done:
        said = counts.refused[0] if failed else f"nothing within {seconds:g} s; give it longer (--seconds)"
        raise RiceError(f"benchmark: {model} on {address} answered {said}", 1)
    images = done * batch
    quantiles = np.percentile(counts.seconds[:done], [50, 90, 99]) * 1e3
    return {
        "series": f"{model}, {batch} a request",
        "model": model,
        "concurrency": concurrency,
        "batch": batch,
        "images_per_s": images / elapsed,
        **dict(zip(("p50_ms", "p90_ms", "p99_ms"), quantiles.tolist(), strict=True)),
        "requests": done,
        "failed": failed,
        "failure": counts.refused[0] if failed else None,
        "client_cpu_ms": own / images * 1e3,
        "cpu_ms": {name: used / images * 1e3 for name, used in spent.items()},
        **_split(model, before, after),
    }


def statistics(address: str) -> dict[str, dict[str, float]]:
    """The server's own sums since it started, by model: `inferences` (images), `executions`, `requests`, and
    nanoseconds in `queue` and `compute`."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/v2/models/stats")
        told = json.loads(connection.getresponse().read())["model_stats"]
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise RiceError(f"benchmark: {address} gives no statistics ({error})", 1) from None
    finally:
        connection.close()
    sums: dict[str, dict[str, float]] = {}
    for model in told:  # one entry a version
        spent = model["inference_stats"]
        found = {
            "inferences": model.get("inference_count", 0),
            "executions": model.get("execution_count", 0),
            "requests": spent["success"].get("count", 0),
            "queue": spent["queue"].get("ns", 0),
            "compute": sum(spent[f"compute_{part}"].get("ns", 0) for part in ("input", "infer", "output")),
        }
        known = sums.setdefault(model["name"], dict.fromkeys(found, 0))
        sums[model["name"]] = {name: known[name] + value for name, value in found.items()}
    return sums


def _split(model: str, before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Queue and compute of one request, and images of one execution, between two calls of `statistics`."""
    grown = {
        name: {key: value - before.get(name, {}).get(key, 0) for key, value in sums.items()}
        for name, sums in after.items()
    }
    worked = {name: sums for name, sums in grown.items() if sums["requests"] and sums["executions"]}
    # an ensemble computes nothing itself: what counts are the models that it is made of
    steps = {name: sums for name, sums in worked.items() if name != model} or worked
    return {
        "queue_ms": sum(sums["queue"] / sums["requests"] for sums in steps.values()) / 1e6,
        "compute_ms": sum(sums["compute"] / sums["requests"] for sums in steps.values()) / 1e6,
        "executed_batch": {name: sums["inferences"] / sums["executions"] for name, sums in steps.items()},
    }


class _Clients:
    """Threads that ask for as long as the context is open."""

    def __init__(self, address: str, model: str, requests: Sequence[Body], concurrency: int) -> None:
        self.counts = Counts()
        self._address, self._path, self._requests = address, f"/v2/models/{model}/infer", requests
        self._turn = itertools.count()
        self._over = threading.Event()
        self._broken: OSError | http.client.HTTPException | None = None
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(concurrency)]

    def __enter__(self) -> _Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self._broken is not None:
            raise RiceError(f"benchmark: the connection to {self._address} failed ({self._broken})", 1)

    def _work(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
        try:
            while not self._over.is_set():
                self._ask(connection, self._requests[next(self._turn) % len(self._requests)])
        except (OSError, http.client.HTTPException) as error:
            self._broken = error
        finally:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection, request: Body) -> None:
        began = time.perf_counter()
        connection.request("POST", self._path, body=request.data, headers=request.headers)
        answer = connection.getresponse()
        said = answer.read()
        counts = self.counts  # of the measurement that is under way now
        if answer.status == 200:
            counts.seconds.append(time.perf_counter() - began)
        else:
            counts.refused.append(f"{answer.status} {said[:200].decode(errors='replace')}")
