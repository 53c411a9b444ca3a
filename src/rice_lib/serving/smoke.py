"""What a service must promise, each promise tested on a running server: the library half of notebook 07.

`SmokeTest.begin` starts a server, or takes the running one that the parameters name. Each check returns a
table for the notebook, adds its numbers to `metrics`, and raises `BrokenPromiseError` where the server does
not keep the promise. Only where there is nothing to test (no serving environment on this machine and no URL)
the tables say "not measured here".
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from rice_lib.backends.open import open_predictor
from rice_lib.backends.predictor import Predictor
from rice_lib.backends.triton import Protocol, TritonPredictor, answer_to
from rice_lib.common.errors import RiceError
from rice_lib.common.run import Run
from rice_lib.common.tracking import Metric
from rice_lib.serving import server as life
from rice_lib.serving.environment import MissingEnvironmentError, ServingEnvironment
from rice_lib.serving.release import random_images

NAMES: dict[Protocol, str] = {"http": "HTTP", "grpc": "gRPC"}
IN_PROCESS = "ONNX Runtime, no server"

MALFORMED = {"http": "400", "grpc": "INVALID_ARGUMENT"}
UNKNOWN = {"http": "404", "grpc": "NOT_FOUND"}
"""How a server says no: to a malformed request, and to one for a model that it does not have."""


class BrokenPromiseError(RiceError):
    """A running server does not do what a service must."""

    def __init__(self, message: str) -> None:
        """A fault of the server: exit status 1."""
        super().__init__(message, status=1)


class SmokeTest:
    """One server under test, or the reason why there is none."""

    def __init__(self, run: Run, reference: Predictor) -> None:
        """Hold what the checks compare with; `begin` makes one that is ready to use."""
        self.metrics: dict[str, Metric] = {}
        self.obstacle: str | None = None
        """Why nothing can be measured here; None where there is a server."""
        self.run, self.reference = run, reference
        self.model = run.params.serve.model_name
        self.server: life.RunningServer | None = None
        self.address: dict[Protocol, str] = {}
        """`host:port` of the server under test."""
        self._clients: dict[Protocol, TritonPredictor] = {}

    @classmethod
    def begin(cls, run: Run) -> SmokeTest:
        """Start a server on the profile's repository, or connect to the one at `serve.url`.

        Raises:
            RiceError: the server does not start or does not answer, or there is no `model.onnx` to compare
            with.
        """
        test = cls(run, open_predictor(run.paths.onnx / "model.onnx"))
        url = run.params.serve.url
        if url is not None:
            test.address = endpoints(url)
            test._absent("serve/ready_s", "s", f"the running server at {url} was used")
        else:
            try:
                environment = ServingEnvironment.find(run.paths.root)
            except MissingEnvironmentError as missing:
                test.obstacle = str(missing)
                test._absent("serve/ready_s", "s", test.obstacle)
                return test
            test._start(environment)
        test._clients = {p: TritonPredictor(address, test.model, p) for p, address in test.address.items()}
        return test

    def _start(self, environment: ServingEnvironment) -> None:
        paths, serve = self.run.paths, self.run.params.serve
        self.server = life.start(
            environment,
            paths.repository,
            self.model,
            paths.server,
            ready_timeout_s=serve.ready_timeout_s,
        )
        self.address = {"http": self.server.http, "grpc": self.server.grpc}
        self.metrics["serve/ready_s"] = Metric(self.server.ready_s, unit="s", how="start to model ready")

    def readiness(self) -> pd.DataFrame:
        """Who answers where, and how long the start took."""
        if self.obstacle:
            return self.not_measured("server")
        server = self.server
        rows = [
            (f"answers over {NAMES[p]}", f"{self.address[p]}: {client.server()}") for p, client in self._clients.items()
        ]
        if server is not None:
            rows += [
                ("ready after", f"{server.ready_s:.1f} s"),
                ("log", self.run.paths.relative(Path(server.log))),
            ]
        else:
            rows.append(("started by", "someone else (serve.url)"))
        return pd.DataFrame(rows, columns=["server", ""]).set_index("server")

    def metadata(self) -> pd.DataFrame:
        """What the server says of the model, checked against the ONNX file: one column a protocol."""
        if self.obstacle:
            return self.not_measured("metadata")
        columns = {}
        for protocol, client in self._clients.items():
            if client.labels != self.reference.labels:
                raise BrokenPromiseError(f"{protocol}: labels {client.labels}, the model has {self.reference.labels}")
            said = client.metadata()
            columns[NAMES[protocol]] = {
                "model, version": f"{said['name']}, {', '.join(said['versions'])}",
                "platform": said["platform"],
                "input": _tensors(said["inputs"]),
                "output": _tensors(said["outputs"]),
                "largest batch": str(client.max_batch),
                "labels": ", ".join(client.labels),
            }
        return pd.DataFrame(columns)

    def parity(self) -> pd.DataFrame:
        """Logits against ONNX Runtime in this process, on random images, at batches 1, 3 and the maximum.

        Random, because a fault in the server's hand-over of arrays can repeat one value and pass unseen on
        constants.
        """
        if self.obstacle:
            return self.not_measured("parity", *(f"serve/parity_max_abs_{name}" for name in ("b1", "b3", "bmax")))
        random = np.random.default_rng(self.run.params.seed)
        tolerance = self.run.params.export.tolerance
        rows = []
        for name, batch in self._batches().items():
            pixels = random_images(random, batch)
            expected = self.reference.logits(pixels)
            worst = 0.0
            for protocol, client in self._clients.items():
                logits = client.logits(pixels)
                difference = float(np.abs(logits - expected).max())
                if not difference <= tolerance:  # so that NaN fails, too
                    raise BrokenPromiseError(
                        f"{protocol}, batch {batch}: logits differ by {difference:g} > {tolerance:g}"
                    )
                same = int((logits.argmax(1) == expected.argmax(1)).sum())
                rows.append((batch, NAMES[protocol], f"{difference:.1e}", f"{same} of {batch}"))
                worst = max(worst, difference)
            how = f"largest of {batch} random images, HTTP and gRPC, against ONNX Runtime"
            self.metrics[f"serve/parity_max_abs_{name}"] = Metric(worst, n=batch, how=how)
        return pd.DataFrame(rows, columns=["batch", "protocol", "max abs difference", "same label"])

    def refusals(self) -> pd.DataFrame:
        """Requests that must be refused with a reason, and that the server is still there afterwards."""
        if self.obstacle:
            return self.not_measured("refusals", "serve/refused")
        good = random_images(np.random.default_rng(self.run.params.seed), 1)
        limit = self._clients["http"].max_batch
        attempts = {
            "wrong shape (100 x 100)": (self.model, np.ascontiguousarray(good[:, :100, :100]), MALFORMED),
            "wrong type (float32)": (self.model, good.astype(np.float32), MALFORMED),
            f"{limit + 1} images, one over the limit": (
                self.model,
                np.repeat(good, limit + 1, axis=0),
                MALFORMED,
            ),
            "no images": (self.model, good[:0], MALFORMED),
            "a model it does not have": (f"{self.model}-unknown", good, UNKNOWN),
        }
        rows = []
        for what, (model, pixels, expected) in attempts.items():
            for protocol, address in self.address.items():
                status, message = answer_to(address, model, protocol, pixels)
                if status != expected[protocol]:
                    raise BrokenPromiseError(f"{protocol}, {what}: answered {status}, not {expected[protocol]}")
                rows.append(
                    (
                        what,
                        NAMES[protocol],
                        status,
                        message.removeprefix("[request id: <id_unknown>] ").split(". ")[0],
                    )
                )
        for protocol, client in self._clients.items():
            if not np.allclose(client.logits(good), self.reference.logits(good), atol=self.run.params.export.tolerance):
                raise BrokenPromiseError(f"{protocol}: a good request after the bad ones is answered wrong")
        self.metrics["serve/refused"] = Metric(float(len(rows)), n=len(rows), how="malformed requests told why, of n")
        return pd.DataFrame(rows, columns=["request", "protocol", "status", "the server says"])

    def classification(self, images: int = 3, count: int = 2) -> pd.DataFrame:
        """The server's own ranking (`class_count`), with names from the label file, against the logits."""
        if self.obstacle:
            return self.not_measured("classification")
        images = min(images, self._clients["http"].max_batch)
        pixels = random_images(np.random.default_rng(self.run.params.seed), images)
        expected = np.argsort(-self.reference.logits(pixels), axis=1)[:, :count]
        rows = []
        for protocol, client in self._clients.items():
            for image, ranking in enumerate(client.classify(pixels, count)):
                named = [label for _, _, label in ranking]
                if named != [self.reference.labels[number] for number in expected[image]]:
                    raise BrokenPromiseError(f"{protocol}: image {image} is ranked {named}, unlike its logits")
                rows.append(
                    (NAMES[protocol], image, ", ".join(f"{label} ({score:.3f})" for score, _, label in ranking))
                )
        return pd.DataFrame(rows, columns=["protocol", "random image", f"best {count} (logit)"])

    def latency(self) -> pd.DataFrame:
        """One client, one request after another: what the way through a server costs, beside no server."""
        if self.obstacle:
            return self.not_measured("latency", *(f"serve/latency_ms_{p}_b1" for p in NAMES), unit="ms")
        random = np.random.default_rng(self.run.params.seed)
        engines: dict[str, Predictor] = {f"Triton over {NAMES[p]}": client for p, client in self._clients.items()}
        rows = []
        for batch in self._batches().values():
            pixels = random_images(random, batch)
            for name, predictor in {**engines, IN_PROCESS: self.reference}.items():
                milliseconds = self._time(predictor, pixels)
                p50, p90 = np.percentile(milliseconds, [50, 90])
                rows.append((name, batch, p50, p90, batch / p50 * 1e3, len(milliseconds)))
        table = pd.DataFrame(rows, columns=["engine", "batch", "p50 ms", "p90 ms", "images/s", "calls"])
        for protocol in NAMES:
            row = table[(table["engine"] == f"Triton over {NAMES[protocol]}") & (table["batch"] == 1)].iloc[0]
            how = "median of one client's calls, one image each"
            self.metrics[f"serve/latency_ms_{protocol}_b1"] = Metric(
                row["p50 ms"], n=int(row["calls"]), unit="ms", how=how
            )
        return table

    def end(self) -> pd.DataFrame:
        """Stop the server that was started here, and look for anything it left behind."""
        for client in self._clients.values():
            client.close()
        if self.obstacle:
            return self.not_measured("stop", "serve/stop_s", unit="s")
        if self.server is None:
            reason = "the server was not started here, so it is not stopped here"
            self._absent("serve/stop_s", "s", reason)
            return pd.DataFrame([("stop", f"not measured here: {reason}")], columns=["", "result"]).set_index("")
        seconds = self.server.stop()
        if seconds is None:
            raise BrokenPromiseError(f"the server was gone before it was stopped (log: {self.server.log})")
        if left := self.server.leftovers():
            raise BrokenPromiseError(f"the server left behind: {', '.join(left)}")
        self.metrics["serve/stop_s"] = Metric(seconds, unit="s", how="SIGTERM to the last process gone")
        rows = [
            ("stopped after", f"{seconds:.1f} s"),
            ("processes, shared memory, sockets, state left", "none"),
        ]
        return pd.DataFrame(rows, columns=["", "result"]).set_index("")

    def _batches(self) -> dict[str, int]:
        limit = self._clients["http"].max_batch
        return {"b1": 1, "b3": min(3, limit), "bmax": limit}

    def _time(self, predictor: Predictor, pixels: np.ndarray) -> list[float]:
        """Milliseconds of each call after a warm-up, up to the benchmark's repeats or seconds, at least 5."""
        settings = self.run.params.benchmark
        for _ in range(settings.warmup):
            predictor.logits(pixels)
        milliseconds: list[float] = []
        until = time.perf_counter() + settings.seconds_per_point
        while len(milliseconds) < settings.repeats and (len(milliseconds) < 5 or time.perf_counter() < until):
            began = time.perf_counter()
            predictor.logits(pixels)
            milliseconds.append((time.perf_counter() - began) * 1e3)
        return milliseconds

    def _absent(self, name: str, unit: str, reason: str) -> None:
        self.metrics[name] = Metric(None, unit=unit, how=f"not measured here: {reason}")

    def not_measured(self, what: str, *metrics: str, unit: str = "") -> pd.DataFrame:
        """The table of a check for which there is no server; its metrics say so, too."""
        for name in metrics:
            self._absent(name, unit, str(self.obstacle))
        row = f"not measured here: {self.obstacle}"
        return pd.DataFrame({"result": [row]}, index=pd.Index([what], name="check"))


def endpoints(url: str) -> dict[Protocol, str]:
    """HTTP and gRPC addresses of a server from `serve.url`: `host:port` of HTTP, gRPC being the next port up.

    Raises:
        RiceError: not `host:port`.
    """
    host, _, port = url.rpartition(":")
    if not host or not port.isdecimal() or "/" in url:
        raise RiceError(f"serve.url {url!r}: write it as host:port of the server's HTTP endpoint, without a scheme")
    return {"http": url, "grpc": f"{host}:{int(port) + 1}"}


def _tensors(tensors: list[Mapping]) -> str:
    return "; ".join(f"{t['name']} {t['datatype']} [{', '.join(str(side) for side in t['shape'])}]" for t in tensors)
