"""A real server among malformed requests: it answers the good ones right, refuses the others, and stays as it is.

One request in twenty is odd. Every good one must be told as the local predictor tells it, every bad one refused with
the reason, and at the end the server must be ready, and stop without leaving anything behind.
"""

from __future__ import annotations

import http.client
import itertools
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hostile_requests import PARSER, Request, good_requests, odd_requests
from tqdm import tqdm

from rice_lib.backends.open import open_predictor
from rice_lib.backends.predictor import Predictor
from rice_lib.backends.triton import import_tritonclient
from rice_lib.contract.decision import Decision
from rice_lib.serving.config import OUTPUT, Names
from rice_lib.serving.load import BYTES_OUTPUTS, TIMEOUT_S
from rice_lib.serving.processes import MODEL, memory_mib, serving
from rice_lib.serving.server import RunningServer

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
    """What came of the requests of one kind."""

    sent: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    example: str = ""
    """The message of the first refusal."""
    wrong: list[str] = field(default_factory=list)
    """What should not have come."""


def measure(model: Path, images: Sequence[Path], folder: Path, requests: int, concurrency: int) -> dict[str, Any]:
    """Start a server and send it good and malformed requests.

    Args:
        model: an ONNX file of this project.
        images: photographs that can be read; 128 of them are taken.
        folder: where the server's folders are made.
        requests: how many.
        concurrency: clients at once.

    Returns:
        `kinds`: what came of each; `memory_mib` of the server's processes before and after every tenth of the requests;
        `wrong`: every promise that was broken, one line each.

    Raises:
        RiceError: there is no serving environment, or the server did not start.
    """
    with open_predictor(model) as predictor, serving(model, folder, MAX_BATCH) as server:
        plan = planned(predictor, images[:: max(1, len(images) // IMAGES)][:IMAGES], folder, requests)
        run = Run(server, predictor, plan, concurrency)
        before, began = memory_mib(server.pid), time.monotonic()
        run.all()
        seconds = time.monotonic() - began
        ready = server.is_ready()
        server.stop()
        left = server.leftovers()
    wrong = [
        f"{kind}: {len(tally.wrong)} of {tally.sent} wrong, the first: {tally.wrong[0]}"
        for kind, tally in run.tallies.items()
        if tally.wrong
    ]
    wrong += [] if ready else ["the server was not ready at the end"]
    wrong += [f"left behind: {what}" for what in left]
    return {
        "requests": requests,
        "concurrency": concurrency,
        "seconds": seconds,
        "kinds": {kind: asdict(tally) for kind, tally in sorted(run.tallies.items())},
        "memory_mib": [before, *run.memory],
        "wrong": wrong,
    }


def planned(predictor: Predictor, images: Sequence[Path], folder: Path, requests: int) -> list[Request]:
    """The requests in order, the same every time: one of every twenty is odd, at a place drawn by lot."""
    random = np.random.default_rng(SEED)
    names = (MODEL, Names(MODEL).ensemble)
    good = {kind: itertools.cycle(each) for kind, each in good_requests(predictor, names, images, random).items()}
    odd = itertools.cycle(odd_requests(predictor, names, images[0], folder, MAX_BATCH))
    kinds = random.choice(list(SHARES), requests, p=list(SHARES.values()))
    plan = [next(good[str(kind)]) for kind in kinds]
    for start in range(0, requests, ODD_EVERY):
        plan[min(start + int(random.integers(ODD_EVERY)), requests - 1)] = next(odd)
    return plan


def fault(request: Request, status: str, told: Any, predictor: Predictor) -> str | None:
    """What is wrong with an answer; None where it is as it must be.

    Args:
        request: what was sent.
        status: HTTP's (`200`) or gRPC's (`OK`).
        told: the answer's tensors (tritonclient's result), or the message of a refusal.
        predictor: the served model, here.
    """
    answered = status in ("200", "OK")
    if request.answer is None:
        if answered:
            return "was answered"
        fits = status in request.status and re.search(request.says, str(told))
        return None if fits else f"status {status}: {told}"
    if not answered:
        return f"status {status}: {told}"
    if request.model == MODEL:
        scores = (predictor.decision or Decision()).probabilities(told.as_numpy(OUTPUT))
        varieties = tuple(predictor.labels[number] for number in scores.argmax(axis=1))
    else:
        scores = told.as_numpy("scores")
        varieties = tuple(cell.decode() for cell in told.as_numpy("variety").ravel())
    if varieties != request.answer.varieties:
        return f"told {', '.join(varieties)} for {', '.join(request.answer.varieties)}"
    apart = float(np.abs(scores - request.answer.scores).max())
    return None if apart <= TOLERANCE else f"scores are {apart:.1e} apart"


class Run:
    """The requests of a plan sent by several clients, and what came of them."""

    def __init__(self, server: RunningServer, predictor: Predictor, plan: Sequence[Request], concurrency: int) -> None:
        self.tallies: dict[str, Tally] = {}
        """By kind."""
        self.memory: list[float] = []
        """MiB of the server's processes after each tenth."""
        self._server, self._predictor, self._plan, self._concurrency = server, predictor, plan, concurrency
        self._turn, self._lock, self._done = iter(plan), threading.Lock(), 0
        self._http = import_tritonclient("http")
        self._grpc = import_tritonclient("grpc")

    def all(self) -> None:
        """Send all of them."""
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self._concurrency)]
        with (
            self._grpc.InferenceServerClient(self._server.grpc) as self._client,
            tqdm(total=len(self._plan), desc="requests", unit="request", leave=False) as self._progress,
        ):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _work(self) -> None:
        connection = http.client.HTTPConnection(self._server.http, timeout=TIMEOUT_S)
        while (request := self._next()) is not None:
            try:
                status, told = self._ask(connection, request)
            except (OSError, http.client.HTTPException) as error:
                connection.close()  # the next request opens it anew
                status, told = "none", f"no answer ({type(error).__name__}: {error})"
            self._count(request, status, told, fault(request, status, told, self._predictor))
        connection.close()

    def _next(self) -> Request | None:
        with self._lock:
            return next(self._turn, None)

    def _ask(self, connection: http.client.HTTPConnection, request: Request) -> tuple[str, Any]:
        """Status, and the result or the message."""
        if request.grpc is not None:
            return self._ask_grpc(request)
        path = f"/v2/models/{request.model}/infer"
        connection.request("POST", path, body=request.body.data, headers=request.body.headers)
        answer = connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            return str(answer.status), data.decode(errors="replace")
        length = answer.headers.get("Inference-Header-Content-Length")
        parse = self._http.InferenceServerClient.parse_response_body
        return "200", parse(data, header_length=int(length) if length else None)

    def _ask_grpc(self, request: Request) -> tuple[str, Any]:
        from tritonclient.utils import InferenceServerException

        names = (OUTPUT,) if request.model == MODEL else BYTES_OUTPUTS
        wanted = None if request.answer is None else [self._grpc.InferRequestedOutput(name) for name in names]
        try:
            told = self._client.infer(request.model, [request.grpc], outputs=wanted, client_timeout=TIMEOUT_S)
        except InferenceServerException as error:
            return (error.status() or "none").removeprefix("StatusCode."), str(error.message())
        return "OK", told

    def _count(self, request: Request, status: str, told: Any, wrong: str | None) -> None:
        with self._lock:
            tally = self.tallies.setdefault(request.kind, Tally())
            tally.sent += 1
            tally.statuses[status] = tally.statuses.get(status, 0) + 1
            if not tally.example and status not in ("200", "OK"):
                tally.example = " ".join(str(told).split())
            if wrong is not None:
                tally.wrong.append(wrong)
            self._done += 1
            self._progress.update()
            if self._done * TENTHS // len(self._plan) > len(self.memory):
                self.memory.append(memory_mib(self._server.pid))


def lines(found: dict[str, Any]) -> list[str]:
    """The measurement as tables for people."""
    told = [f"{'kind':<27}{'sent':>6}{'wrong':>6}  {'status':<17}what the server says, for example"]
    for kind, tally in found["kinds"].items():
        said = _WRAPPING.sub("", tally["example"])
        statuses = " ".join(sorted(tally["statuses"]))
        told.append(f"{kind:<27}{tally['sent']:>6}{len(tally['wrong']):>6}  {statuses:<16} {said[:42]}".rstrip())
    if any(set(tally["statuses"]) & set(PARSER) for tally in found["kinds"].values()):
        told.append("500, not 4xx: tritonserver's own answer to JSON that it cannot read; no model is asked")
    memory = " ".join(f"{mib:.0f}" for mib in found["memory_mib"])
    told += [
        "",
        f"{found['requests']:,} requests by {found['concurrency']} clients in {found['seconds']:.0f} s",
        "memory of the server's processes, MiB, before and after every tenth of the requests:",
        memory,
    ]
    return told + (found["wrong"] or ["every promise was kept: ready at the end, and nothing was left behind"])
