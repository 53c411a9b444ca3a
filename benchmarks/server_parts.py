"""Say where the processor's time of one request to a server goes: clients, Triton's HTTP front, its core, our models.

Each request brings one image. What a model computes is timed alone in this process, at the batch that the server ran,
in turn with the load; the rest of that model's process is Triton's Python backend (copies between processes, tensors,
waiting). The front's threads are those that the server starts behind gRPC's: they read requests and send responses. The
rest of the server's own process is its core: the scheduler, and the copies to and from the models.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import own_server
import pandas as pd
from common import add_number, parser, photographs, run
from own_server import MODEL, cpu_seconds, front_seconds, serving, split

from rice_lib.backends.open import default_model, open_predictor
from rice_lib.common.errors import run_command
from rice_lib.contract.decode import configure_pillow, decode
from rice_lib.contract.features import extract_features
from rice_lib.contract.prediction import feature_table, read_logits
from rice_lib.contract.record import Record
from rice_lib.serving.load import bodies, measure_point
from rice_lib.serving.server import public_models

BYTES = public_models(MODEL)[1]
FRONT, CORE, COMPUTED, BACKEND = "Triton's HTTP front", "Triton's core", "computed by us", "Triton's Python backend"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns its exit status."""
    command = parser(__doc__, runs=3, files=256)
    command.add_argument("--model", type=Path, metavar="M.onnx", help="default: the model that ships")
    add_number(command, "--clients", 16, "clients at once")
    add_number(command, "--seconds", 4, "of each load")
    return run(command, argv, measure, describe)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Load the server with pixels and with files in turn: CPU milliseconds a request of each part, run by run."""
    configure_pillow()
    model, files = arguments.model or default_model(), [p.read_bytes() for p in photographs(arguments, folder)]
    pixels = np.stack([decode(data) for data in files])
    found: dict[str, list[dict[str, Any]]] = {MODEL: [], BYTES: []}
    with open_predictor(model, threads=1) as predictor, serving(model, folder, max_batch=32) as server:

        def watch() -> tuple[Any, ...]:
            return own_server.statistics(server.http), cpu_seconds(server.pid), front_seconds(server.pid)

        for _ in range(arguments.runs):
            for name, rows in ((MODEL, pixels), (BYTES, files)):
                load = {"concurrency": arguments.clients, "batch": 1, "seconds": arguments.seconds, "watch": watch}
                point = measure_point(server.http, name, bodies(rows, 1), **load)
                (sums, spent, front), (later, later_spent, later_front) = point.pop("watched")
                cpu_ms = {key: (s - spent.get(key, 0)) / point["requests"] * 1e3 for key, s in later_spent.items()}
                parts = {"clients": point["client_cpu_ms"], FRONT: (later_front - front) / point["requests"] * 1e3}
                parts[CORE] = cpu_ms.pop("server") + cpu_ms.pop("supervisor") - parts[FRONT]
                batches = split(name, sums, later)["executed_batch"]
                for process, alone in _alone(predictor, files, pixels, batches).items():
                    parts[f"{process}: {COMPUTED}"] = alone
                    parts[f"{process}: {BACKEND}"] = cpu_ms[process] - alone
                found[name].append({"cpu_ms": parts, "executed_batch": batches, "images_per_s": point["images_per_s"]})
    return {"clients": arguments.clients, "seconds": arguments.seconds, "runs": found}


def _alone(predictor: Any, files: Sequence[bytes], pixels: np.ndarray, batches: dict[str, float]) -> dict[str, float]:
    """Time, in this process, what each model of the server computes: CPU milliseconds an image, by the model's name."""
    table, logits = feature_table(pixels), predictor.logits(pixels)

    def record(first: int, size: int) -> None:
        rows = slice(first, first + size)
        for prediction in read_logits(predictor.labels, predictor.decision, logits[rows], table[rows]):
            Record("", prediction).as_dict(len(predictor.labels))

    kinds: dict[str, Callable[[int, int], object]] = {
        "decode": lambda first, size: [extract_features(decode(data)) for data in files[first : first + size]],
        "postprocess": record,
    }
    found = {}
    for name, batch in batches.items():
        part = kinds.get(name.rpartition("_")[2], lambda first, size: predictor.logits(pixels[first : first + size]))
        sizes = (int(batch), int(batch) + 1)  # a mean of 1.3 images at once lies between the times of one and of two
        found[name] = float(np.interp(batch, sizes, [_ms(part, size, len(files)) for size in sizes]))
    return found


def _ms(part: Callable[[int, int], object], size: int, count: int) -> float:
    size = min(size, count)
    part(0, size)
    begun, starts = time.process_time(), range(0, count - size + 1, size)
    for first in starts:
        part(first, size)
    return (time.process_time() - begun) / len(starts) / size * 1e3


def describe(found: dict[str, Any]) -> str:
    """Write the measurement as tables for people; medians of the runs."""
    lines = []
    for name, runs in found["runs"].items():
        parts = pd.DataFrame([each["cpu_ms"] for each in runs]).median()
        parts["all"], ours = parts.sum(), parts[[part for part in parts.index if part.endswith(COMPUTED)]].sum()
        table = parts.to_frame("ms of a core").assign(share=parts / parts["all"])
        rate = statistics.median(each["images_per_s"] for each in runs)
        batches = pd.DataFrame([each["executed_batch"] for each in runs]).median().round(1).to_dict()
        lines += [
            f"{name}, one image a request, {found['clients']} clients: {rate:.0f} images/s",
            table.to_string(formatters={"ms of a core": "{:.3f}".format, "share": "{:.0%}".format}),
            f"{COMPUTED} {ours / parts['all']:.0%}; images at once: {batches}",
        ]
    return "\n\n".join(lines)


if __name__ == "__main__":
    run_command(main)
