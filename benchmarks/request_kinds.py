"""The good and the malformed requests that `malformed_requests` sends, each with the outcome that it must have.

Two malformed requests are not among them, because tritonserver itself takes them for good, and no model learns of it:
pixels given as JSON numbers beyond 255 are cut to eight bits, and a shape of 2^32 images (it counts them in 32 bits)
with the bytes of one is classified as one.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from rice_lib.backends.predictor import Predictor
from rice_lib.backends.triton import import_tritonclient, make_input
from rice_lib.contract.decode import IMAGE_SIZE, decode
from rice_lib.contract.record import Record
from rice_lib.predict.pipeline import predict_files
from rice_lib.serving.load import HEADER_LENGTH, Body, body
from rice_lib.serving.repository import FILE, INPUT

MOST_IMAGES = 4
"""Images of a good request."""

CLIENT_ERROR = ("400", "404", "413", "INVALID_ARGUMENT", "NOT_FOUND")
"""How a server says that the request is at fault."""

PARSER = ("500",)
"""What tritonserver's HTTP front says, with the reason, of JSON that it cannot read: not ours to change."""

_TEXT = b"not an image at all\n"
_PIXELS = bytes(IMAGE_SIZE * IMAGE_SIZE * 3)


@dataclass(frozen=True)
class Expected:
    """What must be predicted of a request's images, in order."""

    varieties: tuple[str, ...]
    """As `rice infer` writes, `unknown` included; empty for a file that cannot be read, the likeliest for pixels."""
    scores: np.ndarray
    """float `[N, classes]`; zeros for a file that cannot be read."""


@dataclass(frozen=True)
class Request:
    """What is sent, and the outcome that it must have."""

    kind: str
    model: str
    body: Body
    expected: Expected | None = None
    """None: it must be rejected."""
    message: str = ""
    """A pattern that the error's message must hold."""
    status: tuple[str, ...] = CLIENT_ERROR
    """What the error's status may be."""
    grpc: Any = None
    """The input of a request by gRPC, which is then sent in place of `body`."""


def good_requests(
    predictor: Predictor, names: tuple[str, str], images: Sequence[Path], random: np.random.Generator
) -> dict[str, list[Request]]:
    """Make requests of 1 to 4 images for both models, over HTTP and gRPC, by kind; together they go over all images.

    Args:
        predictor: the served model, here.
        names: those of the tensor model and of the ensemble.
        images: photographs that can be read.
        random: how many images each has.
    """
    pixels = np.stack([decode(image) for image in images])
    scores = predictor.decision.probabilities(predictor.logits(pixels))
    likeliest = [predictor.labels[number] for number in scores.argmax(axis=1)]
    records, files = classify(predictor, images), [image.read_bytes() for image in images]
    made: dict[str, list[Request]] = {}
    start = 0
    while start < len(images):
        rows = slice(start, start + int(random.integers(1, MOST_IMAGES + 1)))
        start = rows.stop
        for what, model, sent, expected in (
            ("pixels", names[0], pixels[rows], Expected(tuple(likeliest[rows]), scores[rows])),
            ("files", names[1], files[rows], expected_of(predictor, records[rows])),
        ):
            request = Request(f"{what}, HTTP", model, body(sent), expected)
            made.setdefault(request.kind, []).append(request)
            request = Request(f"{what}, gRPC", model, request.body, expected, grpc=_grpc(sent))
            made.setdefault(request.kind, []).append(request)
    return made


def odd_requests(
    predictor: Predictor, names: tuple[str, str], image: Path, folder: Path, max_batch: int
) -> list[Request]:
    """Make one request of each malformed kind, and two odd ones that must succeed.

    Args:
        predictor: the served model, here.
        names: those of the tensor model and of the ensemble.
        image: a photograph that can be read.
        folder: where the odd files are written for the predictor to read.
        max_batch: most images of one request.
    """
    tensor, ensemble = names
    data = image.read_bytes()
    large, text = folder / "40 megapixels.jpg", folder / "text.jpg"
    large.write_bytes(_large_image())
    text.write_bytes(_TEXT)
    good = _raw(INPUT, [1, IMAGE_SIZE, IMAGE_SIZE, 3], "UINT8", _PIXELS)
    square = np.zeros((1, 100, 100, 3), np.uint8)
    alone = expected_of(predictor, classify(predictor, [large]))
    mixed = expected_of(predictor, classify(predictor, [image, text]))

    def files(kind: str, content: bytes, message: str) -> Request:
        return Request(kind, ensemble, body([content]), message=message)

    def pixels(kind: str, shape: Sequence[int], size: int, message: str, form: str = "UINT8") -> Request:
        return Request(kind, tensor, _raw(INPUT, shape, form, bytes(size)), message=message)

    one = len(_PIXELS)
    return [
        Request("40 megapixels", ensemble, body([large.read_bytes()]), alone),
        Request("a text among files", ensemble, body([data, _TEXT]), mixed),
        files("truncated file", data[: len(data) // 2], "truncated|damaged"),
        files("text", _TEXT, "not an image in a format that can be read"),
        files("zero bytes", b"", "the file is empty"),
        files("decompression bomb", _bomb(), r"too large \(30,000 x 30,000 pixels\)"),
        pixels("wrong shape", square.shape, square.size, r"got \[1,100,100,3\]"),
        pixels("wrong type", [1, IMAGE_SIZE, IMAGE_SIZE, 3], 4 * one, "data-type is 'FP32'", "FP32"),
        pixels("zero images", [0, IMAGE_SIZE, IMAGE_SIZE, 3], 0, "got 0"),
        pixels("one image too many", [max_batch + 1, *([IMAGE_SIZE] * 2), 3], (max_batch + 1) * one, "batch-size must"),
        pixels("fewer bytes than its shape", [1, IMAGE_SIZE, IMAGE_SIZE, 3], 1000, "size mismatch"),
        Request("zero files", ensemble, _raw(FILE, [0, 1], "BYTES", b""), message="got 0"),
        Request("one file too many", ensemble, body([data] * (max_batch + 1)), message="batch-size must"),
        Request("a length that lies", ensemble, _raw(FILE, [1, 1], "BYTES", b"\xff" * 4 + data), message="incomplete"),
        Request("unknown input", tensor, _raw("pictures", [1, 3], "UINT8", bytes(3)), message="pictures"),
        Request("unknown model", "wheat", good, message="unknown model"),
        Request("unknown model, gRPC", "wheat", good, message="unknown model", grpc=_grpc(np.zeros_like(square))),
        Request("wrong shape, gRPC", tensor, good, message=r"got \[1,100,100,3\]", grpc=_grpc(square)),
        Request("wrong header length", tensor, Body(good.data, {HEADER_LENGTH: str(10**9)}), message="header size"),
        Request(
            "header length no number", tensor, Body(good.data, {HEADER_LENGTH: "long"}), message="size mismatch|header"
        ),
        Request("broken JSON", tensor, Body(b'{"inputs": [', {}), message="parse", status=(*CLIENT_ERROR, *PARSER)),
        Request(
            "negative shape",
            tensor,
            _raw(INPUT, [-1, 3], "UINT8", b""),
            message="shape",
            status=(*CLIENT_ERROR, *PARSER),
        ),
    ]


def classify(predictor: Predictor, files: Sequence[Path]) -> list[Record]:
    """Classify files as `rice infer` does."""
    return list(predict_files(predictor, map(str, files)))


def expected_of(predictor: Predictor, records: Sequence[Record]) -> Expected:
    """Give what the ensemble must say, from the records."""
    scores = [
        [record.prediction.scores[label] if record.prediction else 0.0 for label in predictor.labels]
        for record in records
    ]
    return Expected(tuple(record.label or "" for record in records), np.array(scores))


def _raw(name: str, shape: Sequence[int], form: str, data: bytes) -> Body:
    """A request with a tensor that need not fit: what no client library would send."""
    tensor = {"name": name, "shape": list(shape), "datatype": form, "parameters": {"binary_data_size": len(data)}}
    header = json.dumps({"inputs": [tensor]}).encode()
    return Body(header + data, {HEADER_LENGTH: str(len(header))})


def _grpc(rows: np.ndarray | Sequence[bytes]) -> Any:
    pixels = isinstance(rows, np.ndarray)
    array = rows if isinstance(rows, np.ndarray) else np.array(rows, np.object_)[:, None]
    return make_input(import_tritonclient("grpc"), INPUT if pixels else FILE, array)


def _large_image() -> bytes:
    """8,000 x 5,000 pixels: more than any camera of a phone has, and within the image contract."""
    image = Image.new("RGB", (8000, 5000))
    ImageDraw.Draw(image).ellipse((1500, 1500, 6500, 3500), fill=(214, 214, 220))
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


def _bomb() -> bytes:
    """A PNG of 40 kB that says it has 30,000 x 30,000 pixels, and holds 40 MB of them."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(40_000_000), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
