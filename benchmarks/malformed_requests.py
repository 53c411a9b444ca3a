"""Send malformed requests among good ones to a real server: it must answer the good ones correctly, reject the others
with the reason, be ready at the end, and stop without leaving anything behind. One request in twenty is odd.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import add_number, parser, photographs, run
from own_server import MODEL, memory_mib, serving
from request_kinds import PARSER, Request, good_requests, odd_requests
from tqdm import tqdm

from rice_lib.backends.open import default_model, open_predictor
from rice_lib.backends.predictor import Predictor
from rice_lib.backends.triton import import_tritonclient
from rice_lib.common.errors import run_command
from rice_lib.serving.load import BYTES_OUTPUTS, TIMEOUT_S
from rice_lib.serving.repository import OUTPUT
from rice_lib.serving.server import RunningServer, public_models

SEED = 83
ODD_EVERY = 20
IMAGES = 128
"""Photographs that the good requests are made of."""

MAX_BATCH = 32
SHARES = {"pixels, HTTP": 0.4, "files, HTTP": 0.4, "pixels, gRPC": 0.1, "files, gRPC": 0.1}
"""Of the good requests, by kind."""

TOLERANCE = 1e-5
"""By how much a score may differ from the local predictor's."""

TENTHS = 10

_WRAPPING = re.compile(r"""^(\{"error":")?(\[request id: <id_unknown>\] |in ensemble '\w+', )?|"\}$""")
"""What the server puts around the reason."""


@dataclass
class Tally:
    """The outcome of the requests of one kind."""

    sent: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    example: str = ""
    """The message of the first error."""
    faults: list[str] = field(default_factory=list)
    """Outcomes that were not as they must be."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns its exit status, 1 where the server was at fault."""
    command = parser(__doc__)
    command.add_argument("--model", type=Path, metavar="M.onnx", help="default: the model that ships")
    add_number(command, "--requests", 10_000, "requests in all")
    add_number(command, "--concurrency", 64, "clients at once")
    return run(command, argv, measure, describe)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Start a server and send it good and malformed requests.

    Returns:
        `kinds`: the outcome of each; `memory_mib` of the server's processes before and after every tenth of the
        requests; `faults`: one line for everything that was not as it must be.
    """
    model, images = arguments.model or default_model(), photographs(arguments, folder)
    with open_predictor(model) as predictor, serving(model, folder, MAX_BATCH) as server:
        plan = planned(predictor, images[:: max(1, len(images) // IMAGES)][:IMAGES], folder, arguments.requests)
        sender = Sender(server, predictor, len(plan))
        before, began = memory_mib(server.pid), time.monotonic()
        sender.send(plan, arguments.concurrency)
        seconds = time.monotonic() - began
        ready = server.is_ready()
        server.stop()
        left = server.leftovers()
    faults = [
        f"{kind}: {len(tally.faults)} of {tally.sent} at fault, the first: {tally.faults[0]}"
        for kind, tally in sender.tallies.items()
        if tally.faults
    ]
    faults += [] if ready else ["the server was not ready at the end"]
    faults += [f"left behind: {what}" for what in left]
    return {
        "requests": arguments.requests,
        "concurrency": arguments.concurrency,
        "seconds": seconds,
        "kinds": {kind: asdict(tally) for kind, tally in sorted(sender.tallies.items())},
        "memory_mib": [before, *sender.memory],
        "faults": faults,
    }


def planned(predictor: Predictor, images: Sequence[Path], folder: Path, requests: int) -> list[Request]:
    """Plan the requests, in the same order every time: one of every twenty is odd, at a random place."""
    random = np.random.default_rng(SEED)
    names = (MODEL, public_models(MODEL)[1])
    good = {kind: itertools.cycle(each) for kind, each in good_requests(predictor, names, images, random).items()}
    odd = itertools.cycle(odd_requests(predictor, names, images[0], folder, MAX_BATCH))
    kinds = random.choice(list(SHARES), requests, p=list(SHARES.values()))
    plan = [next(good[str(kind)]) for kind in kinds]
    for start in range(0, requests, ODD_EVERY):
        plan[min(start + int(random.integers(ODD_EVERY)), requests - 1)] = next(odd)
    return plan


def fault(request: Request, status: str, response: Any, predictor: Predictor) -> str | None:
    """Say what is wrong with a response; None where it is as it must be.

    Args:
        request: what was sent.
        status: HTTP's (`200`) or gRPC's (`OK`).
        response: its tensors (tritonclient's result), or the message of an error.
        predictor: the served model, here.
    """
    succeeded = status in ("200", "OK")
    if request.expected is None:
        if succeeded:
            return "was not rejected"
        fits = status in request.status and re.search(request.message, str(response))
        return None if fits else f"status {status}: {response}"
    if not succeeded:
        return f"status {status}: {response}"
    if request.model == MODEL:
        scores = predictor.decision.probabilities(response.as_numpy(OUTPUT))
        varieties = tuple(predictor.labels[number] for number in scores.argmax(axis=1))
    else:
        scores = response.as_numpy("scores")
        varieties = tuple(cell.decode() for cell in response.as_numpy("variety").ravel())
    if varieties != request.expected.varieties:
        return f"predicted {', '.join(varieties)} for {', '.join(request.expected.varieties)}"
    apart = float(np.abs(scores - request.expected.scores).max())
    return None if apart <= TOLERANCE else f"scores are {apart:.1e} apart"


class Sender:
    """Sends requests by several clients, each over a connection of its own, and counts the outcomes."""

    def __init__(self, server: RunningServer, predictor: Predictor, total: int) -> None:
        self.tallies: dict[str, Tally] = {}
        """By kind."""
        self.memory: list[float] = []
        """MiB of the server's processes after each tenth of the `total` requests."""
        self._server, self._predictor, self._total = server, predictor, total
        self._lock, self._own = threading.Lock(), threading.local()
        self._coder = import_tritonclient("http").InferenceServerClient
        self._grpc = import_tritonclient("grpc")

    def send(self, plan: Sequence[Request], concurrency: int) -> None:
        """Send all of them."""
        with (
            self._grpc.InferenceServerClient(self._server.grpc) as self._client,
            ThreadPoolExecutor(concurrency) as clients,
            tqdm(total=len(plan), desc="requests", unit="request", leave=False) as progress,
        ):
            for _ in clients.map(self._one, plan):
                progress.update()

    def _one(self, request: Request) -> None:
        if not hasattr(self._own, "connection"):
            self._own.connection = http.client.HTTPConnection(self._server.http, timeout=TIMEOUT_S)
        try:
            status, response = self._respond(self._own.connection, request)
        except (OSError, http.client.HTTPException) as error:
            self._own.connection.close()  # the next request opens it again
            status, response = "none", f"no response ({type(error).__name__}: {error})"
        self._count(request, status, response, fault(request, status, response, self._predictor))

    def _respond(self, connection: http.client.HTTPConnection, request: Request) -> tuple[str, Any]:
        """Status, and the result or the message."""
        if request.grpc is not None:
            return self._respond_grpc(request)
        path = f"/v2/models/{request.model}/infer"
        connection.request("POST", path, body=request.body.data, headers=request.body.headers)
        response = connection.getresponse()
        data = response.read()
        if response.status != 200:
            return str(response.status), data.decode(errors="replace")
        length = response.headers.get("Inference-Header-Content-Length")
        return "200", self._coder.parse_response_body(data, header_length=int(length) if length else None)

    def _respond_grpc(self, request: Request) -> tuple[str, Any]:
        from tritonclient.utils import InferenceServerException

        names = (OUTPUT,) if request.model == MODEL else BYTES_OUTPUTS
        wanted = None if request.expected is None else [self._grpc.InferRequestedOutput(name) for name in names]
        try:
            result = self._client.infer(request.model, [request.grpc], outputs=wanted, client_timeout=TIMEOUT_S)
        except InferenceServerException as error:
            return (error.status() or "none").removeprefix("StatusCode."), str(error.message())
        return "OK", result

    def _count(self, request: Request, status: str, response: Any, fault: str | None) -> None:
        with self._lock:
            tally = self.tallies.setdefault(request.kind, Tally())
            tally.sent += 1
            tally.statuses[status] = tally.statuses.get(status, 0) + 1
            if not tally.example and status not in ("200", "OK"):
                tally.example = " ".join(str(response).split())
            if fault is not None:
                tally.faults.append(fault)
            done = sum(each.sent for each in self.tallies.values())
            if done * TENTHS // self._total > len(self.memory):
                self.memory.append(memory_mib(self._server.pid))


def describe(found: dict[str, Any]) -> str:
    """Write the measurement as tables for people."""
    rows = [
        (
            kind,
            tally["sent"],
            len(tally["faults"]),
            " ".join(sorted(tally["statuses"])),
            _WRAPPING.sub("", tally["example"])[:42],
        )
        for kind, tally in found["kinds"].items()
    ]
    lines = [
        pd.DataFrame(rows, columns=["kind", "sent", "faults", "status", "message, for example"]).to_string(index=False)
    ]
    if any(set(tally["statuses"]) & set(PARSER) for tally in found["kinds"].values()):
        lines.append("500, not 4xx: tritonserver's own answer to JSON that it cannot read; no model is asked")
    lines += [
        "",
        f"{found['requests']:,} requests by {found['concurrency']} clients in {found['seconds']:.0f} s",
        "memory of the server's processes, MiB, before and after every tenth of the requests:",
        " ".join(f"{mib:.0f}" for mib in found["memory_mib"]),
    ]
    return "\n".join(lines + (found["faults"] or ["no faults: ready at the end, and nothing was left behind"]))


if __name__ == "__main__":
    run_command(main)
