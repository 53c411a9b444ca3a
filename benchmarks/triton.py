"""A real server under load beside the model called directly, and its ensemble beside the prediction command.

In each run come, in this order: the model called directly and `rice infer`, the server at the concurrency that is
compared, the server at the others. Ratios are of one run's numbers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rice_lib.backends.open import open_predictor
from rice_lib.backends.predictor import Predictor
from rice_lib.common.errors import RiceError
from rice_lib.contract.decode import decode
from rice_lib.contract.image_file import BadImageError
from rice_lib.export.timing import in_turn, python, ratio
from rice_lib.serving.config import Names
from rice_lib.serving.load import Body, Rows, bodies, measure_point
from rice_lib.serving.processes import MODEL, PeakMemory, memory_mib, serving
from rice_lib.serving.server import RunningServer

COMPARED = 16
"""Clients at once where the server is compared; the most that there are, where the grid has fewer."""

PIXELS = 512
"""Images that the tensor model is asked about; decoded, a thousand take 150 MB."""

DIRECT_BATCH = 32
"""Images of a direct call, beside those of the grid."""

GOALS = {"tensor": 0.95, "bytes": 0.9}
"""What the ratios should be at least."""

BYTES = Names(MODEL).ensemble


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
        """Concurrency and batch of every point; those that are compared come first, right behind what with."""
        ordered = sorted(self.concurrencies, key=lambda number: (number != self.compared, number))
        return [(concurrency, batch) for concurrency in ordered for batch in self.batches]


def measure(model: Path, images: Sequence[Path], folder: Path, grid: Grid) -> dict[str, Any]:
    """Rates, latencies, CPU time and memory of a server started for it, and its rates over the direct ones.

    Args:
        model: an ONNX file of this project.
        images: photographs.
        folder: where the server's folders are made.
        grid: the loads.

    Raises:
        RiceError: there is no serving environment, an image cannot be read, or something did not answer.
    """
    pixels, files = _pixels(images[:PIXELS]), [image.read_bytes() for image in images]
    with (
        open_predictor(model) as predictor,
        serving(model, folder, max(*grid.batches, DIRECT_BATCH)) as server,
        PeakMemory(server.pid) as peak,
    ):
        before = memory_mib(server.pid)
        found = _runs(server, predictor, pixels=pixels, files=files, infer=infer_command(model, images), grid=grid)
        after = memory_mib(server.pid)
    rates = found["direct"]
    best = max(rates, key=lambda batch: statistics.median(rates[batch]["images_per_s"]))
    return {
        "images": len(images),
        "seconds": grid.seconds,
        "compared_concurrency": grid.compared,
        "ready_s": server.ready_s,
        "memory_mib": {"before": before, "peak": max(peak.mib, after), "after": after},
        **found,
        "direct_best_batch": best,
        "tensor_to_direct": _ratios(found, MODEL, rates[best]["images_per_s"], grid),
        "bytes_to_infer": _ratios(found, BYTES, found["infer_images_per_s"], grid),
    }


def infer_command(model: Path, images: Sequence[Path]) -> list[str]:
    """The prediction command over the same files."""
    return python("-m", "rice_lib.infer", *images, "--model", model, "--format", "jsonl", "--output", "/dev/null")


def _runs(
    server: RunningServer,
    predictor: Predictor,
    *,
    pixels: np.ndarray,
    files: Sequence[bytes],
    infer: list[str],
    grid: Grid,
) -> dict[str, Any]:
    """Everything `grid.runs` times over: `points` (each with its `run`), `direct` by batch, `infer_images_per_s`."""
    direct: dict[int, dict[str, list[float]]] = {
        batch: {"images_per_s": [], "cpu_ms": []} for batch in sorted({*grid.batches, DIRECT_BATCH})
    }
    told: list[float] = []
    points: list[dict[str, Any]] = []
    # put together beforehand, by model and batch
    rows: dict[str, Rows] = {MODEL: pixels, BYTES: files}
    asked = {(model, batch): bodies(rows[model], batch) for model in rows for batch in grid.batches}
    with tqdm(total=grid.runs * (len(direct) + 1 + 2 * len(grid.order())), unit="point", leave=False) as progress:
        for run in range(grid.runs):
            for batch, found in direct.items():
                progress.set_description(f"direct, batch {batch}")
                for name, value in _direct(predictor, pixels, batch, grid.seconds).items():
                    found[name].append(value)
                progress.update()
            progress.set_description("rice infer")
            told.append(len(files) / in_turn({"rice infer": infer}, 1)["rice infer"].median)
            progress.update()
            for point in _points(server, asked, grid, progress.set_description):
                points.append({"run": run, **point})
                progress.update()
    return {"points": points, "direct": direct, "infer_images_per_s": told}


def _points(
    server: RunningServer, asked: dict[tuple[str, int], list[Body]], grid: Grid, say: Callable[[str], object]
) -> Iterator[dict[str, Any]]:
    for concurrency, batch in grid.order():
        for model in (MODEL, BYTES):
            say(f"{model}, {concurrency} clients, {batch} a request")
            yield measure_point(
                server.http,
                model,
                asked[model, batch],
                concurrency=concurrency,
                batch=batch,
                seconds=grid.seconds,
                pid=server.pid,
            )


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


def _ratios(
    found: dict[str, Any], model: str, rates: Sequence[float], grid: Grid
) -> dict[int, tuple[float, float, float]]:
    """The server's rate over another's of the same run, minimum, median and maximum, by images of a request."""
    ours = {batch: _of(found["points"], model, grid.compared, batch) for batch in grid.batches}
    return {batch: ratio([point["images_per_s"] for point in each], rates) for batch, each in ours.items()}


def _of(points: Sequence[dict[str, Any]], model: str, concurrency: int, batch: int) -> list[dict[str, Any]]:
    """One point of all runs, in order."""
    wanted = (model, concurrency, batch)
    return [point for point in points if (point["model"], point["concurrency"], point["batch"]) == wanted]


def lines(found: dict[str, Any]) -> list[str]:
    """The measurement as tables for people; medians of the runs."""
    return [*_load_lines(found), "", *_cpu_lines(found), "", *_ratio_lines(found), "", *_memory_lines(found)]


def _load_lines(found: dict[str, Any]) -> list[str]:
    told = [
        f"{'model':<12}{'clients':>8}{'images':>7}{'images/s':>10}{'p50 ms':>9}{'p90 ms':>9}{'p99 ms':>9}"
        f"{'queue ms':>10}{'compute ms':>12}{'executed':>10}"
    ]
    for model, concurrency, batch in dict.fromkeys(
        (point["model"], point["concurrency"], point["batch"]) for point in found["points"]
    ):
        each = _of(found["points"], model, concurrency, batch)
        rate, *rest = (_median(each, name) for name in ("images_per_s", *_COLUMNS))
        # of the steps' names the classifier's is the shortest: the others have more behind it
        executed = statistics.median(min(p["executed_batch"].items(), key=lambda pair: len(pair[0]))[1] for p in each)
        shown = "".join(f"{value:>{width}.1f}" for value, width in zip(rest, (9, 9, 9, 10, 12), strict=True))
        told.append(f"{model:<12}{concurrency:>8}{batch:>7}{rate:>10.0f}{shown}{executed:>10.1f}")
    failed = [point for point in found["points"] if point["failed"]]
    told += [
        f"{point['model']}, {point['concurrency']} clients, {point['batch']} a request: {point['failed']} of "
        f"{point['failed'] + point['requests']} requests failed ({point['failure'][:120]})"
        for point in failed
    ]
    return [
        *told,
        "images: of one request; executed: of one run of the classifier; queue, compute: a request's, summed",
    ]


_COLUMNS = ("p50_ms", "p90_ms", "p99_ms", "queue_ms", "compute_ms")


def _cpu_lines(found: dict[str, Any]) -> list[str]:
    """Where the cores' time goes, at the concurrency that is compared."""
    points = [point for point in found["points"] if point["concurrency"] == found["compared_concurrency"]]
    parts = sorted({name for point in points for name in point["cpu_ms"]})
    widths = {name: max(8, len(name) + 2) for name in (*parts, "client", "all")}
    told = [f"{'CPU ms an image':<18}{'images':>7}" + "".join(f"{name:>{width}}" for name, width in widths.items())]
    for model, batch in dict.fromkeys((point["model"], point["batch"]) for point in points):
        each = _of(points, model, found["compared_concurrency"], batch)
        spent = [statistics.median(point["cpu_ms"].get(name, 0.0) for point in each) for name in parts]
        spent.append(_median(each, "client_cpu_ms"))
        shown = zip([*spent, sum(spent)], widths.values(), strict=True)
        told.append(f"{model:<18}{batch:>7}" + "".join(f"{value:>{width}.2f}" for value, width in shown))
    for batch, direct in found["direct"].items():
        told.append(f"{'direct':<18}{batch:>7}{statistics.median(direct['cpu_ms']):>{sum(widths.values())}.2f}")
    return told


def _ratio_lines(found: dict[str, Any]) -> list[str]:
    best = found["direct_best_batch"]
    told = [f"{'without a server':<40}{'images/s, median':>18}"]
    told += [
        f"{f'direct, batch {batch}':<40}{statistics.median(rates['images_per_s']):>18.0f}"
        for batch, rates in found["direct"].items()
    ]
    told.append(f"{'rice infer, whole command':<40}{statistics.median(found['infer_images_per_s']):>18.0f}")
    title = f"{found['compared_concurrency']} clients, ratio of images/s"
    told += ["", f"{title:<40}{'median (from to)':>26}{'goal':>8}"]
    for name, model, other in (
        ("tensor", MODEL, f"direct, batch {best}"),
        ("bytes", BYTES, "rice infer"),
    ):
        for batch, (low, middle, high) in found[f"{name}_to_{'direct' if name == 'tensor' else 'infer'}"].items():
            shown = f"{middle:.2f} ({low:.2f} to {high:.2f})"
            told.append(f"{f'{model}, {batch} a request / {other}':<40}{shown:>26}{GOALS[name]:>8}")
    return told


def _memory_lines(found: dict[str, Any]) -> list[str]:
    memory = found["memory_mib"]
    return [
        f"ready after {found['ready_s']:.1f} s; memory of its processes, MiB: {memory['before']:.0f} before, "
        f"{memory['peak']:.0f} at most, {memory['after']:.0f} after"
    ]


def _median(points: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.median(point[name] for point in points)
