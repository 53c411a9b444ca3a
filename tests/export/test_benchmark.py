"""The benchmark: what a worker measures, and that what cannot be measured is a row that says why."""

import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import psutil
import pytest
from support.models import KEEP, grains, tiny_checkpoint, tiny_onnx

from rice_lib.backends.checkpoint import CheckpointPredictor
from rice_lib.backends.open import open_predictor
from rice_lib.common.errors import RiceError
from rice_lib.common.parameters import BenchmarkParams
from rice_lib.export import benchmark, benchmark_worker
from rice_lib.export.benchmark import Benchmark, Engine, build_plans, list_engines, measure

SETTINGS = BenchmarkParams(batch_sizes=[1, 4], repeats=6, warmup=1, images=5, seconds_per_point=0.2)


@pytest.fixture(scope="module")
def result() -> Benchmark:
    """Torch, ONNX Runtime, one engine that cannot run, one that fails, in processes of their own."""
    engines = [
        Engine("torch_eager", str(tiny_checkpoint())),
        Engine("onnx_float32", str(tiny_onnx())),
        Engine("tensorrt_float32", "x.plan", obstacle="no GPU here"),
        Engine("onnx_float16", "none.onnx", "float16"),
    ]
    return measure(engines, grains(5), SETTINGS)


@pytest.mark.slow
def test_a_row_for_every_engine_and_batch(result):
    assert list(result.table["batch"]) == [1, 4] * 4
    timed = result.table.dropna(subset="images_per_s")
    assert set(timed["engine"]) == {"torch_eager", "onnx_float32"}
    assert (timed["p50_ms"] <= timed["p90_ms"]).all()
    assert (timed["p90_ms"] <= timed["p99_ms"]).all()
    assert timed["calls"].between(5, 6).all()
    assert (timed["labels_equal"] == 1).all()
    assert (timed["max_abs_difference"] < 1e-4).all()
    assert timed["peak_rss_mb"].between(50, 5000).all()
    assert timed["matmul_share"].between(0, 1, inclusive="neither").all()


@pytest.mark.slow
def test_what_cannot_be_measured_says_why(result):
    notes = result.table.set_index("engine")["note"].groupby(level=0).first()
    assert notes["tensorrt_float32"] == "not measured here: no GPU here"
    assert notes["onnx_float16"] == "not measured here: none.onnx: no such model"
    metrics = result.metrics()
    assert metrics["benchmark/tensorrt_float32/b1/images_per_s"].value is None
    assert metrics["benchmark/tensorrt_float32/b1/images_per_s"].how == "not measured here: no GPU here"
    assert metrics["benchmark/onnx_float32/b4/images_per_s"].value > 0
    assert not any(m.value is not None and math.isnan(m.value) for m in metrics.values())


def test_an_engine_that_gives_no_logits_in_time_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "START_LIMIT_S", -0.95)  # five images add a second
    np.save(tmp_path / "pixels.npy", grains(5))
    engine = Engine("onnx_float32", str(tiny_onnx()))
    found = benchmark._run(engine, tmp_path / "pixels.npy", SETTINGS, threads=1, reference=False)
    assert found["note"] == "not measured here: gave no logits within 0 s"


def test_an_engine_that_goes_past_its_limit_is_ended_with_all_that_it_started(monkeypatch, tmp_path):
    (tmp_path / "logits.npy").touch()
    child = "import subprocess, time; subprocess.Popen(['sleep', '61.7']); time.sleep(60)"
    start = subprocess.Popen
    started = []

    def sleeper(command, **options):
        started.append(start([sys.executable, "-c", child], **options))
        return started[0]

    monkeypatch.setattr(benchmark.subprocess, "Popen", sleeper)
    assert benchmark._supervise(tmp_path, 0.01, 2.0) == "not measured here: stopped after 2 s"
    assert started[0].returncode == -signal.SIGKILL
    _, alive = psutil.wait_procs([one for one in psutil.process_iter() if _session(one) == started[0].pid], timeout=10)
    assert not alive


def _session(process):
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else os.getsid(process.pid)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None


def test_peak_memory_is_this_process_own():
    before = benchmark_worker.peak_rss_mb()
    block = np.ones(200_000_000, np.uint8)
    assert benchmark_worker.peak_rss_mb() >= before
    code = "from rice_lib.export.benchmark_worker import peak_rss_mb; print(peak_rss_mb())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(child.stdout) < before  # this process holds torch, its child does not
    assert block.nbytes == 200_000_000


def test_without_the_reference_there_is_no_benchmark(tmp_path):
    with pytest.raises(RiceError, match=r"torch_eager could not be measured: .*none: no such model"):
        measure([Engine("torch_eager", str(tmp_path / "none"))], grains(2), SETTINGS)


def test_a_worker_writes_times_and_logits(tmp_path):
    np.save(tmp_path / "pixels.npy", grains(5))
    job = {
        "engine": {"spec": str(tiny_onnx()), "compiled": False},
        "pixels": str(tmp_path / "pixels.npy"),
        "output": str(tmp_path),
        "threads": 1,
        "reference": False,
        "settings": SETTINGS.model_dump(),
    }
    benchmark_worker.measure(job)
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["device"] == "onnxruntime/CPU"
    assert set(found["points"]) == {"1", "4"}
    with open_predictor(tiny_onnx()) as model:
        np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), model.logits(grains(5)), atol=1e-5)


def test_a_point_ends_at_its_repeats_or_its_seconds_but_not_below_five_calls():
    class Model:
        calls = 0

        def logits(self, pixels):
            self.calls += 1

    for settings, calls in (
        ({"warmup": 2, "repeats": 7, "seconds_per_point": 60}, 7),
        ({"warmup": 0, "repeats": 100, "seconds_per_point": 0}, 5),
    ):
        model = Model()
        assert len(benchmark_worker.time_calls(model, grains(1), settings)) == calls
        assert model.calls == calls + settings["warmup"]


def test_flops_are_those_of_the_matrix_products():
    # one layer, width 32, tokens n, worked out for the class token alone: keys and values 2 n 32^2, its own query and
    # output projection 2 32^2, its MLP 8 32^2, its attention 2 n 32; before it K patches of 768 values, after it one
    # row of 5 classes; a multiply-add is two operations
    n = KEEP + 1
    products = KEEP * 768 * 32 + (2 * n + 10) * 32**2 + 2 * n * 32 + 32 * 5
    with open_predictor(tiny_checkpoint()) as model:
        assert isinstance(model, CheckpointPredictor)
        assert benchmark_worker.count_flops(model) == 2 * products


def test_every_engine_is_listed_and_plans_say_why_they_are_not_built(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "tensorrt_obstacle", lambda: "no GPU here")
    folders = tmp_path / "vit", tmp_path / "onnx", tmp_path / "engines"
    engines = list_engines(*folders, SETTINGS)
    assert [engine.name for engine in engines] == [
        "torch_eager",
        "torch_compiled",
        "onnx_float32",
        "onnx_float16",
        "onnx_int8",
        "openvino_float32",
        "tensorrt_float32",
        "tensorrt_float16",
    ]
    plans = build_plans(engines, tmp_path / "onnx", [8, 1, 32])
    assert list(plans["plan"]) == ["model.plan", "model_fp16.plan"]
    assert set(plans["note"]) == {"not built here: no GPU here"}
    assert engines[1].obstacle is None
    without = list_engines(*folders, SETTINGS.model_copy(update={"compile_limit_s": 0}))
    assert [engine.name for engine in without if engine.obstacle == "benchmark.compile_limit_s is 0"] == [
        "torch_compiled"
    ]
