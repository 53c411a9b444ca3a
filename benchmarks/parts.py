"""Say where a photograph's milliseconds go in `rice infer`, and hold the whole command against its two main parts.

The parts are timed alone, in one thread, as milliseconds of a core: a machine on which others compute as well slows
the command down, but hardly changes its share. Together in one process they displace each other from its caches; the
command adds its start, and what its processes hand to each other. The bound is JPEG decoding and the model at its best
batch, on every core at once.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import Ratio, add_number, call, parser, photographs, python, ratio, run, span
from PIL import Image

from rice_lib.backends.onnx import import_onnxruntime, session_options
from rice_lib.backends.open import default_model, open_predictor
from rice_lib.common.errors import run_command
from rice_lib.common.machine import cores
from rice_lib.contract.decode import IMAGE_SIZE, configure_pillow, decode
from rice_lib.contract.features import extract_features
from rice_lib.predict.pipeline import BATCH_SIZE, predict_in_turn

BATCHES = (1, 4, 8, 16, 32)
JPEG, MODEL, COMMAND = "JPEG decoding", "the model, batch ", "the whole command"
TOGETHER = "all of it, in one process"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns its exit status."""
    command = parser(__doc__, runs=3)
    command.add_argument("--model", type=Path, metavar="M", help="an ONNX file (default: the model that ships)")
    add_number(command, "--sample", 300, "photographs on which the parts are timed")
    return run(command, argv, measure, describe)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time the parts and the command in turn: milliseconds of a core an image, and the command's images per second."""
    configure_pillow()
    images, model = photographs(arguments, folder), arguments.model or default_model()
    sample, parts, wall = images[: arguments.sample], list[dict[str, float]](), list[float]()
    start = _command(images[:1], model)
    for _ in range(arguments.runs):
        found = _parts(sample, model)
        whole = _command(images, model)
        core_ms, wall_s = (1000 * (whole[0] - start[0]) / len(images), whole[1] - start[1])
        parts.append({**found, COMMAND: core_ms})
        wall.append(len(images) / wall_s)
    best = [min(each[name] for name in each if name.startswith(MODEL)) for each in parts]
    bound = [each[JPEG] + model_ms for each, model_ms in zip(parts, best, strict=True)]
    return {
        "images": len(images),
        "core_ms": {name: statistics.median(each[name] for each in parts) for name in parts[0]},
        "cores": cores(),
        "images_per_s": wall,
        "bound_to_command": ratio(bound, [each[COMMAND] for each in parts]),
    }


def _parts(images: Sequence[Path], model: Path) -> dict[str, float]:
    """Time each part alone: milliseconds an image."""
    contents = [image.read_bytes() for image in images]
    opened = [Image.open(io.BytesIO(content)).convert("RGB") for content in contents]
    pixels = np.stack([decode(image) for image in images])
    found = {
        "reading the file": _ms([image.read_bytes for image in images]),
        JPEG: _ms([lambda c=content: Image.open(io.BytesIO(c)).load() for content in contents]),
        "resizing": _ms([lambda i=i: i.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR) for i in opened]),
        "features of the rejection rule": _ms([lambda i=i: extract_features(i) for i in pixels]),
    }
    ort = import_onnxruntime()
    session = ort.InferenceSession(model, session_options(ort, threads=1), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for batch in BATCHES:
        shares = [pixels[first : first + batch] for first in range(0, len(pixels), batch)]
        session.run(None, {name: shares[0]})  # the first call takes the memory that later ones have
        calls = [lambda share=share: session.run(None, {name: share}) for share in shares]
        found[f"{MODEL}{batch}"] = _ms(calls) * len(shares) / len(pixels)
    with open_predictor(model, threads=1) as predictor:
        list(predict_in_turn(predictor, map(str, images[:BATCH_SIZE])))
        found[TOGETHER] = _ms([lambda: list(predict_in_turn(predictor, map(str, images)))]) / len(images)
    return found


def _ms(calls: Sequence[Callable[[], object]]) -> float:
    begun = time.process_time()
    for part in calls:
        part()
    return 1000 * (time.process_time() - begun) / len(calls)


def _command(images: Sequence[Path], model: Path) -> tuple[float, float]:
    """Run the command; seconds of a core, and of the clock."""
    command = python("-m", "rice_lib.infer", "-", "--model", model, "--format", "jsonl")
    _, core, clock = call("rice infer", command, input="\n".join(map(str, images)))
    return core, clock


def describe(found: dict[str, Any]) -> str:
    """Write the measurement as a table for people."""
    rows = [(name, f"{ms:.2f}") for name, ms in found["core_ms"].items()]
    table = pd.DataFrame(rows, columns=["part", "ms of a core an image, median"])
    reached: Ratio = found["bound_to_command"]
    speed = f"{statistics.median(found['images_per_s']):.0f} images/s on {found['cores']} cores, start-up left out"
    bound = f"JPEG decoding and the model at its best batch / {COMMAND}: {span(reached)}"
    return f"{table.to_string(index=False)}\n\n{bound}; {speed}"


if __name__ == "__main__":
    run_command(main)
