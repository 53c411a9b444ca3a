"""Load a real server beside the model called directly, and its ensemble beside the prediction command.

In each run come, in this order: the model called directly and `rice infer`, the server at the concurrency that is
compared, the server at the others. Ratios are of one run's numbers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import own_server
import pandas as pd
from common import Ratio, add_number, in_turn, parser, photographs, positive, python, ratio, run, span
from own_server import MODEL, PeakMemory, cpu_seconds, memory_mib, serving, split
from tqdm import tqdm

from rice_lib.backends.open import default_model, open_predictor
from rice_lib.backends.predictor import Predictor
from rice_lib.common.errors import RiceError, run_command
from rice_lib.contract.decode import decode
from rice_lib.contract.image_file import BadImageError
from rice_lib.serving.load import Body, bodies, measure_point
from rice_lib.serving.server import RunningServer, public_models

COMPARED = 16
"""Clients at once where the server is compared; the most that there are, where the grid has fewer."""

PIXELS = 512
"""Images that the tensor model is asked about; decoded, a thousand take 150 MB."""

DIRECT_BATCH = 32
"""Images of a direct call, beside those of the grid."""

GOALS = {"tensor_to_direct": 0.95, "bytes_to_infer": 0.9}
"""What the ratios should be at least."""

BYTES = public_models(MODEL)[1]


@dataclass(frozen=True)
class Grid:
    """What is measured, how long and how often."""

    concurrencies: Sequence[int]
    batches: Sequence[int]
    seconds: float
    runs: int

    @property
    def compared(self) -> int:
        """The concurrency whose rates are compared."""
        return COMPARED if COMPARED in self.concurrencies else max(self.concurrencies)

    def order(self) -> list[tuple[int, int]]:
        """List concurrency and batch of every point; those that are compared come first, right behind what with."""
        ordered = sorted(self.concurrencies, key=lambda number: (number != self.compared, number))
        return [(concurrency, batch) for concurrency in ordered for batch in self.batches]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns its exit status."""
    command = parser(__doc__, runs=3)
    command.add_argument("--model", type=Path, metavar="M.onnx", help="default: the model that ships")
    for option, default in (("--concurrency", [1, 4, 16, 64]), ("--batch", [1, 8, 32])):
        words = "default: " + " ".join(map(str, default))
        command.add_argument(option, nargs="+", type=positive, default=default, metavar="N", help=words)
    add_number(command, "--seconds", 4, "of each point")
    return run(command, argv, measure, describe)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure rates, latencies, CPU time and memory of a server started for it, and its rates over the direct ones."""
    grid = Grid(arguments.concurrency, arguments.batch, arguments.seconds, arguments.runs)
    model, images = arguments.model or default_model(), photographs(arguments, folder)
    pixels, files = _pixels(images[:PIXELS]), [image.read_bytes() for image in images]
    infer = python("-m", "rice_lib.infer", *images, "--model", model, "--format", "jsonl")
    # put together beforehand, by model and batch
    requests = {
        (name, batch): bodies(rows, batch) for name, rows in ((MODEL, pixels), (BYTES, files)) for batch in grid.batches
    }
    direct: dict[int, dict[str, list[float]]] = {
        batch: {"images_per_s": [], "cpu_ms": []} for batch in sorted({*grid.batches, DIRECT_BATCH})
    }
    commands: list[float] = []
    points: list[dict[str, Any]] = []
    with (
        open_predictor(model) as predictor,
        serving(model, folder, max(*grid.batches, DIRECT_BATCH)) as server,
        PeakMemory(server.pid) as peak,
        tqdm(total=grid.runs * (len(direct) + 1 + 2 * len(grid.order())), unit="point", leave=False) as progress,
    ):
        before = memory_mib(server.pid)
        for number in range(grid.runs):
            for batch, found in direct.items():
                for name, value in _direct(predictor, pixels, batch, grid.seconds).items():
                    found[name].append(value)
                progress.update()
            commands.append(len(files) / in_turn({"rice infer": infer}, 1)["rice infer"].median)
            progress.update()
            for point in _points(server, requests, grid):
                points.append({"run": number, **point})
                progress.update()
        after = memory_mib(server.pid)
    best = max(direct, key=lambda batch: statistics.median(direct[batch]["images_per_s"]))
    return {
        "images": len(images),
        "seconds": grid.seconds,
        "compared_concurrency": grid.compared,
        "ready_s": server.ready_s,
        "memory_mib": {"before": before, "peak": max(peak.mib, after), "after": after},
        "points": points,
        "direct": direct,
        "infer_images_per_s": commands,
        "direct_best_batch": best,
        "tensor_to_direct": _ratios(points, MODEL, direct[best]["images_per_s"], grid),
        "bytes_to_infer": _ratios(points, BYTES, commands, grid),
    }


def _points(server: RunningServer, requests: dict[tuple[str, int], list[Body]], grid: Grid) -> Iterator[dict[str, Any]]:
    def watch() -> tuple[dict[str, dict[str, float]], dict[str, float]]:
        return own_server.statistics(server.http), cpu_seconds(server.pid)

    for concurrency, batch in grid.order():
        for model in (MODEL, BYTES):
            point = measure_point(
                server.http,
                model,
                requests[model, batch],
                concurrency=concurrency,
                batch=batch,
                seconds=grid.seconds,
                watch=watch,
            )
            (sums, spent), (later_sums, later_spent) = point.pop("watched")
            images = point["requests"] * batch
            cpu_ms = {name: (used - spent.get(name, 0.0)) / images * 1e3 for name, used in later_spent.items()}
            yield {**point, "cpu_ms": cpu_ms, **split(model, sums, later_sums)}


def _direct(predictor: Predictor, pixels: np.ndarray, batch: int, seconds: float) -> dict[str, float]:
    """Images per second of the model called in this process, and its CPU milliseconds an image."""
    starts = range(0, len(pixels), batch)
    calls = [pixels[np.arange(start, start + batch) % len(pixels)] for start in starts]  # the last is filled up
    predictor.logits(calls[0])  # the first call takes the memory that later ones have
    began, spent, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        predictor.logits(calls[done % len(calls)])
        done += 1
    images = done * batch
    return {
        "images_per_s": images / (time.perf_counter() - began),
        "cpu_ms": (time.process_time() - spent) / images * 1e3,
    }


def _pixels(images: Sequence[Path]) -> np.ndarray:
    try:
        return np.stack([decode(image) for image in tqdm(images, desc="decoding", delay=2, leave=False)])
    except BadImageError as error:
        raise RiceError(f"benchmark: one of the --images cannot be read ({error}); take it out") from None


def _ratios(points: Sequence[dict[str, Any]], model: str, rates: Sequence[float], grid: Grid) -> dict[int, Ratio]:
    """The server's rate over another's of the same run, by images of a request."""
    found = {}
    for batch in grid.batches:
        wanted = (model, grid.compared, batch)
        ours = [p["images_per_s"] for p in points if (p["model"], p["concurrency"], p["batch"]) == wanted]
        found[batch] = ratio(ours, rates)
    return found


def describe(found: dict[str, Any]) -> str:
    """Write the measurement as tables for people; medians of the runs."""
    points, keys = pd.DataFrame(found["points"]), ["model", "concurrency", "batch"]
    # of the steps' names the classifier's is the shortest: the others have more behind it
    points["executed"] = [min(each.items(), key=lambda pair: len(pair[0]))[1] for each in points["executed_batch"]]
    columns = ["images_per_s", "p50_ms", "p90_ms", "p99_ms", "queue_ms", "compute_ms", "executed"]
    load = points.groupby(keys, sort=False)[columns].median().reset_index()

    compared = points[points["concurrency"] == found["compared_concurrency"]]
    cpu = pd.DataFrame(compared["cpu_ms"].tolist()).fillna(0.0).assign(client=compared["client_cpu_ms"].to_numpy())
    cpu["all"] = cpu.sum(axis=1)
    cpu = cpu.groupby([compared["model"].to_numpy(), compared["batch"].to_numpy()], sort=False).median()
    cpu = cpu.rename_axis(["CPU ms an image", "batch"]).reset_index()
    direct = {batch: statistics.median(each["cpu_ms"]) for batch, each in found["direct"].items()}
    rows = [{"CPU ms an image": "direct", "batch": batch, "all": spent} for batch, spent in direct.items()]
    cpu = pd.concat([cpu, pd.DataFrame(rows)])

    rates = {f"direct, batch {batch}": each["images_per_s"] for batch, each in found["direct"].items()}
    rates["rice infer, whole command"] = found["infer_images_per_s"]
    alone = pd.DataFrame(
        [(name, f"{statistics.median(each):.0f}") for name, each in rates.items()],
        columns=["without a server", "images/s, median"],
    )
    others = {
        "tensor_to_direct": (MODEL, f"direct, batch {found['direct_best_batch']}"),
        "bytes_to_infer": (BYTES, "rice infer"),
    }
    ratios = pd.DataFrame(
        [
            (f"{model}, {batch} a request / {other}", span(each), GOALS[name])
            for name, (model, other) in others.items()
            for batch, each in found[name].items()
        ],
        columns=[f"{found['compared_concurrency']} clients, ratio of images/s", "median (from to)", "goal"],
    )
    failed = [
        f"{p['model']}, {p['concurrency']} clients, {p['batch']} a request: {p['failed']} of "
        f"{p['failed'] + p['requests']} requests failed ({p['failure'][:120]})"
        for p in found["points"]
        if p["failed"]
    ]
    memory = found["memory_mib"]
    return "\n\n".join(
        [
            load.to_string(index=False, float_format="%.1f"),
            *failed,
            "batch: images of one request; executed: of one run of the classifier; queue, compute: a request's, summed",
            cpu.to_string(index=False, float_format="%.2f", na_rep=""),
            alone.to_string(index=False),
            ratios.to_string(index=False),
            f"ready after {found['ready_s']:.1f} s; memory of its processes, MiB: {memory['before']:.0f} before, "
            f"{memory['peak']:.0f} at most, {memory['after']:.0f} after",
        ]
    )


if __name__ == "__main__":
    run_command(main)
