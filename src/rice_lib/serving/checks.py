"""The checks of notebook 07: what an application relies on, each checked on a running server.

Each returns a table for people, and raises `RiceError` (exit status 1) where the server fails it.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from rice_lib.backends.predictor import Predictor
from rice_lib.backends.triton import Connection, Protocol, ServerError, TritonPredictor
from rice_lib.common.errors import RiceError
from rice_lib.common.run import Run
from rice_lib.contract.decode import IMAGE_SIZE, decode_with_notes
from rice_lib.contract.image_file import BadImageError
from rice_lib.contract.prediction import predict
from rice_lib.contract.record import Record
from rice_lib.serving import server as life
from rice_lib.serving.control import Control
from rice_lib.serving.environment import MissingEnvironmentError, ServingEnvironment
from rice_lib.serving.load import body, send_file, send_requests
from rice_lib.serving.release import random_images
from rice_lib.serving.repository import INPUT, Repository, drawn_grain

NAMES: dict[Protocol, str] = {"http": "HTTP", "grpc": "gRPC"}

MALFORMED = {"http": "400", "grpc": "INVALID_ARGUMENT"}
UNKNOWN = {"http": "404", "grpc": "NOT_FOUND"}
"""How a server rejects a malformed request, and one for a model that it does not have."""

SCORE_TOLERANCE = 1e-5
SWITCH_CLIENTS = 8  # that send requests while versions are switched


@dataclass(frozen=True)
class Service:
    """A server under test, or the reason why there is none."""

    missing: str | None = None
    """Why nothing can be measured here; None where there is a server."""
    server: life.RunningServer | None = None
    """The server that was started here; None where it runs elsewhere."""
    address: dict[Protocol, str] = field(default_factory=dict)
    """`host:port` by protocol."""
    clients: dict[Protocol, TritonPredictor] = field(default_factory=dict)
    """Of the classifier, by protocol."""


def connect(run: Run) -> Service:
    """Start a server on the profile's repository, or connect to the one at `serve.url`."""
    serve, paths, server = run.params.serve, run.paths, None
    if (url := serve.url) is None:
        try:
            environment = ServingEnvironment.find(paths.root)
        except MissingEnvironmentError as missing:
            return Service(str(missing))
        limit = serve.ready_timeout_s
        server = life.start(environment, paths.repository, serve.model_name, paths.server, ready_timeout_s=limit)
        url = server.http
    address = endpoints(url)
    clients = {protocol: TritonPredictor(where, serve.model_name, protocol) for protocol, where in address.items()}
    return Service(None, server, address, clients)


def parity(
    clients: Mapping[Protocol, Predictor], reference: Predictor, batches: Iterable[int], seed: int, tolerance: float
) -> pd.DataFrame:
    """Compare a server's logits with those of a model in this process, on random images.

    Random, because a fault in the server's hand-over of arrays can repeat one value, which constants hide.
    """
    random, rows = np.random.default_rng(seed), []
    for batch in batches:
        pixels = random_images(random, batch)
        expected = reference.logits(pixels)
        for protocol, client in clients.items():
            if client.labels != reference.labels:
                raise RiceError(f"{protocol}: labels {client.labels}, the model has {reference.labels}", 1)
            logits = client.logits(pixels)
            difference = float(np.abs(logits - expected).max())
            if not difference <= tolerance:  # so that NaN fails, too
                raise RiceError(f"{protocol}, batch {batch}: logits differ by {difference:g} > {tolerance:g}", 1)
            same = int((logits.argmax(1) == expected.argmax(1)).sum())
            rows.append((batch, NAMES[protocol], difference, same))
    return pd.DataFrame(rows, columns=["images a request", "protocol", "largest difference", "same prediction"])


def files(address: str, model: str, reference: Predictor, grain: bytes | None = None) -> pd.DataFrame:
    """Send a grain in many forms to an ensemble, and compare the records with those that `rice infer` would print.

    `grain` is the bytes of an image file; None draws one.
    """
    grain = grain or drawn_grain()
    damaged = {"Truncated JPEG": grain[: len(grain) // 2], "Text": b"not a grain\n" * 9, "HTML": b"<!DOCTYPE html><p>"}
    rows = []
    for form, data in {**grain_forms(grain), **damaged}.items():
        status, record = send_file(address, model, data)
        expected = classify_here(reference, data)
        difference = _difference(record, expected)
        if status != (400 if "error" in expected else 200) or not difference <= SCORE_TOLERANCE:
            raise RiceError(f"{form}: the server says {record}, rice infer {expected}", 1)
        why = record.get("error") or record.get("reason", "")
        rows.append((form, status, record.get("label", ""), record.get("confidence"), why, difference))
    return pd.DataFrame(rows, columns=["file", "HTTP status", "prediction", "confidence", "reason", "difference"])


def malformed(address: Mapping[Protocol, str], model: str, limit: int) -> pd.DataFrame:
    """Send requests that must be rejected with a reason; `limit` is the most images that one may hold."""
    good = np.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    requests: dict[str, tuple[str, np.ndarray, dict[str, str]]] = {
        "Wrong shape (100 x 100)": (model, np.ascontiguousarray(good[:, :100, :100]), MALFORMED),
        "Wrong type (float32)": (model, good.astype(np.float32), MALFORMED),
        f"{limit + 1} images, one more than allowed": (model, np.repeat(good, limit + 1, axis=0), MALFORMED),
        "No images": (model, good[:0], MALFORMED),
        "A model it does not have": (f"{model}-unknown", good, UNKNOWN),
    }
    rows = []
    for what, (name, pixels, expected) in requests.items():
        for protocol, where in address.items():
            with closing(Connection(protocol, where, name)) as connection:
                error = connection.infer("", INPUT, pixels).exception()
            if not isinstance(error, ServerError) or error.code != expected[protocol]:
                raise RiceError(f"{protocol}, {what}: {error or 'accepted'}, not {expected[protocol]}", 1)
            reason = error.why.removeprefix("[request id: <id_unknown>] ").split(". ")[0]
            rows.append((what, NAMES[protocol], error.code, reason))
    return pd.DataFrame(rows, columns=["request", "protocol", "status", "the server says"])


def switch_under_load(repository: Repository, server: life.RunningServer) -> pd.DataFrame:
    """Switch to a second version and back, while clients send requests to both models without a pause."""
    first = repository.active()
    assert first is not None
    model = repository.classifier(first.version) / "1" / "model.onnx"
    made = repository.add(model, max(1, first.max_batch // 2), first.instances)
    answered: Counter[tuple[str, str]] = Counter()

    def count(model: str, data: bytes) -> None:
        version = re.search(rb'"model_version":"(\d+)"', data)
        answered[model, version[1].decode() if version else "?"] += 1

    bodies = body(np.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)), body([drawn_grain()])
    requests = list(zip(repository.public, bodies, strict=True))
    with Control(server) as control, send_requests(server.http, requests, SWITCH_CLIENTS, count) as counts:
        for version in (made.version, first.version):
            repository.switch(version, control)
    repository.discard(made.version)
    if lost := counts.failures:
        raise RiceError(f"{len(lost)} requests were lost while versions were switched: {lost[0]}", 1)
    rows = [(model, version, count) for (model, version), count in sorted(answered.items())]
    return pd.DataFrame(rows, columns=["model", "version", "requests answered"])


def endpoints(url: str) -> dict[Protocol, str]:
    """Make addresses of HTTP and gRPC, the next port up, of `host:port`; raises `RiceError` for another form."""
    host, port = life.parse_address(url, "serve.url")
    return {"http": url, "grpc": f"{host}:{port + 1}"}


def classify_here(model: Predictor, data: bytes) -> dict[str, Any]:
    """Make the record that `rice infer` writes of a file's bytes, without the path."""
    try:
        pixels, notes = decode_with_notes(data)
    except BadImageError as error:
        return {"error": str(error)}
    record = Record("", predict(model, pixels[None])[0], notes).as_dict(len(model.labels))
    del record["path"]
    return record


def grain_forms(grain: bytes) -> dict[str, bytes]:
    """Save the image of a file in the forms that photographs come in: name to the file's bytes."""
    image = Image.open(io.BytesIO(grain))
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [image.convert("P"), ImageOps.mirror(image).convert("P")]
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    forms: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "JPEG": (image, "JPEG", {}),
        "Progressive JPEG": (image, "JPEG", {"progressive": True}),
        "JPEG, CMYK": (image.convert("CMYK"), "JPEG", {}),
        "JPEG, turned by EXIF": (image, "JPEG", {"exif": turned}),
        "JPEG, 400 x 250": (ImageOps.pad(image, (400, 250)), "JPEG", {}),
        "PNG": (image, "PNG", {}),
        "PNG, palette": (image.convert("P"), "PNG", {}),
        "PNG, alpha": (image.convert("RGBA"), "PNG", {}),
        "PNG, 16-bit grey": (Image.fromarray(grey), "PNG", {}),
        "GIF, animated": (frames[0], "GIF", {"save_all": True, "append_images": frames[1:]}),
        "WebP": (image, "WEBP", {}),
        "White paper": (Image.new("RGB", (250, 250), "white"), "PNG", {}),
    }
    saved = {name: io.BytesIO() for name in forms}
    for name, (picture, kind, options) in forms.items():
        picture.save(saved[name], kind, **options)
    return {name: file.getvalue() for name, file in saved.items()}


def _difference(record: dict[str, Any], expected: dict[str, Any]) -> float:
    """Find the largest difference of a score; infinite where anything else differs."""
    numbers, rest = [], []
    for values in (record, expected):
        numbers.append({**values.get("scores", {}), "confidence": values.get("confidence") or 0.0})
        rest.append({key: value for key, value in values.items() if key not in ("scores", "confidence")})
    if rest[0] != rest[1] or numbers[0].keys() != numbers[1].keys():
        return float("inf")
    return max(abs(value - numbers[1][name]) for name, value in numbers[0].items())
