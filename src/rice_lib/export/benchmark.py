"""Measure every engine on the same images; one tidy table.

Each engine has a process of its own (`rice_lib.export.benchmark_worker`), which keeps thread pools and memory apart; a
time limit ends a compiler that does not finish. What cannot be measured here is a row too, with the reason in `note`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from tqdm import tqdm

from rice_lib.backends import openvino
from rice_lib.backends.cuda import find_gpu
from rice_lib.backends.open import OPENVINO, split_engine
from rice_lib.backends.plan import BatchProfile, import_tensorrt
from rice_lib.common.errors import RiceError
from rice_lib.common.files import read_json, write_json
from rice_lib.common.machine import cores
from rice_lib.common.parameters import BenchmarkParams
from rice_lib.common.tracking import Metric
from rice_lib.export.onnx import FILE_NAMES, INT8_FILE, Precision
from rice_lib.export.tensorrt import build_engine

START_LIMIT_S = 120.0
"""How long an engine that compiles nothing may take until its first logits."""
POINT_LIMIT_S = 30.0
"""How far a point may go past its seconds: it makes five calls however long each takes."""

_POINT = {
    "images_per_s": ("throughput", "images/s"),
    "p50_ms": ("median latency", "ms"),
    "p99_ms": ("99th percentile of latency", "ms"),
}
_ENGINE = {
    "labels_equal": ("same prediction as torch", ""),
    "max_abs_difference": ("largest difference of a logit from torch", ""),
    "peak_rss_mb": ("peak memory", "MB"),
}
"""Columns that are recorded of a point and of an engine: name and unit."""

COLUMNS = (
    "engine", "device", "batch", "images_per_s", "p50_ms", "p90_ms", "p99_ms", "calls", "matmul_share", "labels_equal",
    "max_abs_difference", "load_s", "peak_rss_mb", "gpu_mb", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Engine:
    """One way to run the model."""

    name: str
    """As in the metrics: `onnx_float32`."""
    spec: str
    """What `open_predictor` opens."""
    precision: Precision | Literal["int8"] = "float32"
    compiled: bool = False
    """Through torch.compile (a checkpoint only)."""
    obstacle: str | None = None
    """Why it cannot be measured here; None where it can."""

    @property
    def size_mb(self) -> float | None:
        """Size of the file of weights (MB = 10^6 bytes); None where there is none."""
        file = Path(split_engine(self.spec)[1])
        file = file / "model.safetensors" if file.is_dir() else file
        return file.stat().st_size / 1e6 if file.is_file() else None


@dataclass(frozen=True)
class Benchmark:
    """What was measured."""

    table: pd.DataFrame
    """A row per engine and batch size, columns `COLUMNS`. Latencies in ms; `matmul_share` is the arithmetic done per
    second as a share of what a plain matrix product reaches here at the same precision; `labels_equal` the share of
    images with the label that torch eager gives them; `peak_rss_mb` the whole process's (MB = 10^6 bytes)."""
    flops_per_image: float
    """Floating-point operations (a multiply-add is two) of the model's matrix products, as torch counts them."""
    matmul_flops: dict[str, float]
    """Floating-point operations a second of a large matrix product, by precision."""
    threads: int
    logits: dict[str, np.ndarray]
    """float32 `[N, classes]` on all images, by engine: of those alone that gave any."""

    def metrics(self) -> dict[str, Metric]:
        """Give for `record`: `benchmark/<engine>/b<batch>/images_per_s`, `p50_ms`, `p99_ms`, and more by engine."""
        how, name = "torch's counter: matrix products", "arithmetic of one image"
        found = {"benchmark/flops_per_image": Metric(self.flops_per_image / 1e9, unit="GFLOP", how=how, name=name)}
        for precision, rate in self.matmul_flops.items():
            name, key = f"a large matrix product in {precision}", f"benchmark/matmul/{precision}/gflops"
            found[key] = Metric(rate / 1e9, unit="GFLOP/s", how="best of 10", name=name)
        # a missing number is NaN in the table and None in a metric
        for row in self.table.astype(object).where(self.table.notna(), None).to_dict("records"):
            where, of = f"benchmark/{row['engine']}", {"engine": row["engine"]}
            point, at = f"{where}/b{row['batch']}", {**of, "batch": row["batch"]}
            how = row["note"] or f"{row['calls']:g} calls, {self.threads} threads, {row['device']}"
            for key, (name, unit) in _POINT.items():
                found[f"{point}/{key}"] = Metric(row[key], unit=unit, how=how, name=name, of=at)
            for key, (name, unit) in _ENGINE.items():
                found[f"{where}/{key}"] = Metric(row[key], unit=unit, how=row["note"], name=name, of=of)
        return found


def list_engines(checkpoint: Path, onnx: Path, engines: Path, settings: BenchmarkParams) -> list[Engine]:
    """List every engine, in the order of the table.

    Takes the checkpoint directory, the folder of the exports of notebook 05, that of the TensorRT plans, which need not
    exist, and the settings, whose `compile_limit_s` of 0 leaves the compiler out.
    """
    left_out = None if settings.compile_limit_s else "benchmark.compile_limit_s is 0"
    found = [Engine("torch_eager", str(checkpoint))]
    found.append(Engine("torch_compiled", str(checkpoint), compiled=True, obstacle=left_out))
    found += [Engine(f"onnx_{precision}", str(onnx / name), precision) for precision, name in FILE_NAMES.items()]
    found.append(Engine("onnx_int8", str(onnx / INT8_FILE), "int8"))
    file = onnx / FILE_NAMES["float32"]
    found.append(Engine("openvino_float32", f"{OPENVINO}{file}", obstacle=openvino_obstacle()))
    obstacle = tensorrt_obstacle()
    for precision, name in FILE_NAMES.items():
        plan = engines / Path(name).with_suffix(".plan")
        found.append(Engine(f"tensorrt_{precision}", str(plan), precision, obstacle=obstacle))
    return found


def build_plans(engines: Sequence[Engine], onnx: Path, batch_sizes: Sequence[int]) -> pd.DataFrame:
    """Build the plan of every TensorRT engine of `list_engines` that can run here; a row an engine: built or why not.

    `onnx` is the folder of the exports. The plans take 1 to the largest of `batch_sizes`, tuned for the middle one.
    """
    ordered = sorted(batch_sizes)
    profile = BatchProfile(1, ordered[len(ordered) // 2], ordered[-1])
    rows = []
    for engine in engines:
        if not engine.name.startswith("tensorrt"):
            continue
        plan, note = Path(engine.spec), f"not built here: {engine.obstacle}"
        if engine.obstacle is None:
            manifest = build_engine(onnx / plan.with_suffix(".onnx").name, plan, profile)
            assert manifest.gpu is not None
            note = f"TensorRT {manifest.tensorrt} on {manifest.gpu.name}, batches 1 to {profile.max}"
        rows.append({"engine": engine.name, "plan": plan.name, "built": engine.obstacle is None, "note": note})
    return pd.DataFrame(rows)


def tensorrt_obstacle() -> str | None:
    """Say why TensorRT cannot run here; None where it can."""
    try:
        import_tensorrt()
    except RiceError as error:
        return str(error)
    return None if find_gpu() else "no GPU here"


def openvino_obstacle() -> str | None:
    """Say why OpenVINO cannot run here; None where it can."""
    return None if find_spec("openvino") else openvino.MISSING


def measure(engines: Sequence[Engine], pixels: np.ndarray, settings: BenchmarkParams) -> Benchmark:
    """Measure engines on the same images, uint8 `[N, 224, 224, 3]`, one after another.

    The first must be torch eager, which the others are compared with; raises `RiceError` where it cannot be measured.
    """
    threads = cores()
    with tempfile.TemporaryDirectory(prefix="rice-benchmark-") as folder:
        images = Path(folder) / "pixels.npy"
        np.save(images, pixels)
        results = {
            engine.name: _run(engine, images, settings, threads, reference=engine is engines[0])
            for engine in tqdm(engines, desc="engines", unit="engine")
        }
        reference = results[engines[0].name]
        if "logits" not in reference:
            raise RiceError(f"{engines[0].name} could not be measured: {reference['note']}", status=1)
    rows = [_row(each, batch, results[each.name], reference) for each in engines for batch in settings.batch_sizes]
    logits = {name: result["logits"] for name, result in results.items() if "logits" in result}
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return Benchmark(frame, reference["flops_per_image"], reference["matmul_flops"], threads, logits)


def _run(engine: Engine, images: Path, settings: BenchmarkParams, threads: int, reference: bool) -> dict[str, Any]:
    """Read what an engine's worker measured, and why not more (`note`, empty where nothing failed)."""
    if engine.obstacle:
        return {"note": f"not measured here: {engine.obstacle}", "points": {}}
    output = images.parent / engine.name
    output.mkdir()
    job = {"engine": asdict(engine), "pixels": str(images), "output": str(output), "threads": threads}
    write_json(output / "job.json", {**job, "reference": reference, "settings": settings.model_dump()})
    # every image is classified once for the agreement: any useful engine does more than five a second
    start_limit = (settings.compile_limit_s if engine.compiled else START_LIMIT_S) + len(np.load(images, "r")) / 5
    limit = start_limit + len(settings.batch_sizes) * (settings.seconds_per_point + POINT_LIMIT_S)
    note = _supervise(output, start_limit, limit)
    result, logits = output / "result.json", output / "logits.npy"
    found: dict[str, Any] = read_json(result) if result.is_file() else {"points": {}}
    if logits.is_file():
        found["logits"] = np.load(logits)
    return {**found, "note": note}


def _supervise(output: Path, start_limit: float, limit: float) -> str:
    """Run the worker on `output`'s job to its end or a limit; says why it did not finish, or nothing."""
    errors = output / "stderr.txt"
    command = [sys.executable, "-m", "rice_lib.export.benchmark_worker", str(output / "job.json")]
    with errors.open("wb") as stderr:
        # a session of its own, so that the compilers that torch starts end with it
        worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True)
    try:
        with suppress(subprocess.TimeoutExpired):
            worker.wait(start_limit)
        if worker.returncode is None and not (output / "logits.npy").is_file():
            return f"not measured here: gave no logits within {start_limit:.0f} s"
        worker.wait(limit - start_limit)
    except subprocess.TimeoutExpired:
        return f"not measured here: stopped after {limit:.0f} s"
    finally:
        if worker.returncode is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    if worker.returncode:
        lines = errors.read_text(errors="replace").strip().splitlines() or [f"exit status {worker.returncode}"]
        return f"not measured here: {lines[-1].removeprefix('error: ')[:300]}"
    return ""


def _row(engine: Engine, batch: int, result: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"engine": engine.name, "batch": batch, "note": ""}
    row |= {name: result.get(name) for name in ("device", "load_s", "peak_rss_mb", "gpu_mb")}
    if "logits" in result:
        ours, theirs = reference["logits"], result["logits"]
        row["labels_equal"] = float((ours.argmax(1) == theirs.argmax(1)).mean())
        row["max_abs_difference"] = float(np.abs(ours - theirs).max())
    seconds = result["points"].get(str(batch))
    if seconds is None:
        return {**row, "note": result["note"] or "not measured here: the engine takes no batch of this size"}
    rate = batch * len(seconds) / sum(seconds)
    row |= dict(zip(("p50_ms", "p90_ms", "p99_ms"), np.percentile(seconds, [50, 90, 99]) * 1e3, strict=True))
    if peak := reference["matmul_flops"].get(engine.precision):
        row["matmul_share"] = rate * reference["flops_per_image"] / peak
    return {**row, "images_per_s": rate, "calls": len(seconds)}
