"""Measure one engine in this process: `python -m rice_lib.export.benchmark_worker JOB.json`.

`rice_lib.export.benchmark` writes the job and reads `result.json` and `logits.npy` in the job's output folder. The
result is written again after each batch size, so that a run that is stopped keeps it.
"""

from __future__ import annotations

import copy
import re
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from rice_lib.backends.checkpoint import CheckpointPredictor
from rice_lib.backends.cuda import Cuda, CudaError
from rice_lib.backends.open import open_predictor
from rice_lib.backends.plan import TensorRTPredictor
from rice_lib.backends.predictor import Predictor
from rice_lib.common.errors import run_command
from rice_lib.common.files import read_json, write_json

LEAST_CALLS = 5
AGREEMENT_BATCH = 32
MATMUL_SIDE = 2048
"""Large enough that the product, not its start, is measured; 17 GFLOP."""


def main() -> int:
    """Measure what the job file named on the command line asks for."""
    measure(read_json(Path(sys.argv[1])))
    return 0


def measure(job: dict[str, Any]) -> None:
    """Open the engine, classify all images once, then time every batch size that it takes."""
    output, settings = Path(job["output"]), job["settings"]
    pixels = np.load(job["pixels"], mmap_mode="r")
    gpu_before = _gpu_bytes()
    begun = time.perf_counter()
    with _open(job["engine"], job["threads"]) as predictor:
        batch = min(AGREEMENT_BATCH, predictor.max_batch, len(pixels))
        predictor.logits(np.array(pixels[:1]))
        load_s = time.perf_counter() - begun
        parts = [predictor.logits(np.array(pixels[i : i + batch])) for i in range(0, len(pixels), batch)]
        np.save(output / "logits.npy", np.concatenate(parts))
        result: dict[str, Any] = {"device": predictor.name, "load_s": load_s, "points": {}}
        for size in settings["batch_sizes"]:
            if size <= predictor.max_batch:
                result["points"][str(size)] = time_calls(predictor, pixels[np.arange(size) % len(pixels)], settings)
            result["peak_rss_mb"], gpu = peak_rss_mb(), _gpu_bytes()
            result["gpu_mb"] = None if gpu is None or gpu_before is None else (gpu - gpu_before) / 1e6
            write_json(output / "result.json", result)
        if job["reference"]:
            assert isinstance(predictor, CheckpointPredictor)
            result["flops_per_image"] = count_flops(predictor)
            result["matmul_flops"] = matmul_rates()
            write_json(output / "result.json", result)


def peak_rss_mb() -> float | None:
    """Read the largest resident memory of this process so far, in 10^6 bytes; None where there is no `/proc`.

    Not `ru_maxrss`: a process inherits that of the one that started it, here a notebook's.
    """
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.is_file() else None
    return None if peak is None else int(peak[1]) * 1024 / 1e6


def time_calls(predictor: Predictor, pixels: np.ndarray, settings: dict[str, Any]) -> list[float]:
    """Time each call on a batch, seconds, after warm-up; images from host memory to logits in host memory."""
    for _ in range(settings["warmup"]):
        predictor.logits(pixels)
    seconds: list[float] = []
    while len(seconds) < settings["repeats"]:
        begun = time.perf_counter()
        predictor.logits(pixels)
        seconds.append(time.perf_counter() - begun)
        if len(seconds) >= LEAST_CALLS and sum(seconds) >= settings["seconds_per_point"]:
            break
    return seconds


def count_flops(predictor: CheckpointPredictor) -> float:
    """Count the floating-point operations of one image's matrix products and convolutions, by torch's counter.

    Counted with attention written out, because the counter does not know every device's fused attention.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = copy.deepcopy(predictor.model).cpu()
    model.model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, 224, 224, 3, dtype=torch.uint8))
    return float(counter.get_total_flops())


def matmul_rates() -> dict[str, float]:
    """Measure the floating-point operations a second of a large square matrix product, best of 10, by precision.

    Half precision on a GPU alone: CPUs without half-precision arithmetic only emulate it.
    """
    import torch

    gpu, rates = torch.cuda.is_available(), {}
    for name in ("float32", "float16") if gpu else ("float32",):
        a = torch.randn(MATMUL_SIDE, MATMUL_SIDE, device="cuda" if gpu else "cpu").to(getattr(torch, name))
        times = []
        for _ in range(11):  # the first warms up
            begun = time.perf_counter()
            a @ a
            if gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
        rates[name] = 2 * MATMUL_SIDE**3 / min(times[1:])
    return rates


def _open(engine: dict[str, Any], threads: int) -> Predictor:
    if engine["compiled"]:
        import torch

        compiled = CheckpointPredictor(Path(engine["spec"]), threads)
        compiled.model = cast(Any, torch.compile(compiled.model, dynamic=True))  # at the first call, for any batch size
        return compiled
    predictor = open_predictor(engine["spec"], threads)
    if not isinstance(predictor, TensorRTPredictor):
        predictor.max_batch = sys.maxsize  # batches are what is measured: none may be cut into smaller ones
    return predictor


def _gpu_bytes() -> int | None:
    try:
        return Cuda().memory_used()
    except CudaError:
        return None


if __name__ == "__main__":
    run_command(main)
