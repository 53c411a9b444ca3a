"""Build TensorRT plans from an exported ONNX file, each with the manifest that `rice_lib.backends.plan` reads.

The builder uses the calls that TensorRT 10 and 11 have in common: a strongly typed network, whose precision is that of
the ONNX file. `tensorrt_rtx` has the same ones and builds on a machine without a GPU, which is how it is tested.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rice_lib.backends.cuda import find_gpu
from rice_lib.backends.plan import (
    Agreement,
    BatchProfile,
    EngineManifest,
    Flavour,
    import_tensorrt,
    make_logger,
    manifest_file,
)
from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path, sha256_file
from rice_lib.contract.decode import IMAGE_SIZE

if TYPE_CHECKING:
    from tqdm import tqdm

WORKSPACE_MB = 2048
"""Scratch memory of the builder: a ViT-B at batch 512 takes less."""

LEAST_LABELS_EQUAL = 0.995
"""Share of images that a plan must give the label that ONNX Runtime gives: the rest are ties, which rounding turns."""
LOGIT_TOLERANCE = {"float32": 1e-2, "float16": 5e-2}
"""Largest accepted mean absolute difference of a logit from ONNX Runtime's, by precision. TensorRT computes float32 in
TF32, whose mantissa has ten bits."""


def build_engine(
    onnx_path: Path,
    plan: Path,
    profile: BatchProfile | None = None,
    *,
    flavour: Flavour = "tensorrt",
    workspace_mb: int = WORKSPACE_MB,
    timing_cache: Path | None = None,
    pixels: np.ndarray | None = None,
) -> EngineManifest:
    """Build a plan and its manifest (both atomically; the manifest last).

    With `pixels`, the plan is accepted only where it agrees with ONNX Runtime by `LEAST_LABELS_EQUAL` and
    `LOGIT_TOLERANCE`; one that is not accepted leaves no file, and an earlier one stays as it was.

    Args:
        onnx_path: an exported model. Its own types are the plan's precision.
        plan: the file to write.
        profile: batches that the plan takes; by default 1 to 32, tuned for 8.
        flavour: the module to build with.
        workspace_mb: limit of the builder's scratch memory, MiB.
        timing_cache: a file of kernel timings to begin with and to add to; makes the next build faster.
        pixels: images to accept the plan on, uint8 `[N, 224, 224, 3]`; None accepts it unchecked.

    Raises:
        RiceError: TensorRT is not installed, finds no GPU where it needs one, or cannot parse or build the
            model; or the plan disagrees with ONNX Runtime.
    """
    from rice_lib.backends.onnx import OnnxPredictor

    profile = profile or BatchProfile()
    trt = import_tensorrt(flavour)
    gpu = find_gpu()
    if flavour == "tensorrt" and gpu is None:
        raise RiceError("TensorRT builds for the GPU at hand, and there is none here (or no cuda-bindings to find it)")
    if pixels is not None and gpu is None:
        raise RiceError(f"{flavour}: a plan is checked on images by a GPU, and there is none here; leave out --images")
    with OnnxPredictor(onnx_path) as model:  # proves that the file is one of ours before minutes go into it
        labels, precision = model.labels, model.precision
        decision = None if model.decision is None else model.decision.to_json()
    serialized = _build(trt, onnx_path, profile, workspace_mb, timing_cache)
    with atomic_path(plan) as temporary:
        temporary.write_bytes(serialized)
        manifest = EngineManifest(
            flavour=flavour,
            tensorrt=trt.__version__,
            gpu=gpu,
            onnx=str(onnx_path),
            onnx_sha256=sha256_file(onnx_path),
            plan_sha256=sha256_file(temporary),
            precision=precision,
            profile=profile,
            labels=labels,
            decision=decision,
        )
        if pixels is not None:
            manifest = replace(manifest, agreement=_accept(temporary, manifest, pixels))
    manifest.write(plan)
    return manifest


def _accept(plan: Path, manifest: EngineManifest, pixels: np.ndarray) -> Agreement:
    """Run a plan that has no manifest yet on images; raises `RiceError` with the figures where it disagrees."""
    from rice_lib.backends.onnx import OnnxPredictor
    from rice_lib.backends.plan import TensorRTPredictor

    onnx_path = Path(manifest.onnx)
    try:
        manifest.write(plan)
        with TensorRTPredictor(plan) as candidate, OnnxPredictor(onnx_path) as reference:
            agreement = Agreement.of(candidate.logits(pixels), reference.logits(pixels))
    finally:
        manifest_file(plan).unlink(missing_ok=True)
    tolerance = LOGIT_TOLERANCE[manifest.precision]
    equal_enough = agreement.labels_equal >= LEAST_LABELS_EQUAL * agreement.images
    if not (equal_enough and agreement.mean_abs_difference <= tolerance):  # not NaN either
        raise RiceError(
            f"{onnx_path}: the plan built of it is rejected: {agreement}; required are {LEAST_LABELS_EQUAL:.1%} of the "
            f"labels and {tolerance:g} on average; export it in float32, or build with another TensorRT",
            1,
        )
    return agreement


def _build(trt: Any, onnx_path: Path, profile: BatchProfile, workspace_mb: int, timing_cache: Path | None) -> bytes:
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_path)):
        faults = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise RiceError(f"{onnx_path}: {trt.__name__} {trt.__version__} cannot parse it ({_one_line(faults)})", 1)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    shapes = builder.create_optimization_profile()
    image = (IMAGE_SIZE, IMAGE_SIZE, 3)
    shapes.set_shape(network.get_input(0).name, (profile.min, *image), (profile.opt, *image), (profile.max, *image))
    config.add_optimization_profile(shapes)
    config.progress_monitor = _progress(trt)
    if timing_cache is not None:
        known = timing_cache.read_bytes() if timing_cache.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        why = _one_line("; ".join(logger.errors)) or "no reason given"
        raise RiceError(f"{onnx_path}: {trt.__name__} {trt.__version__} could not build a plan ({why})", 1)
    if timing_cache is not None:
        with atomic_path(timing_cache) as temporary:
            temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(serialized)


def _progress(trt: Any) -> Any:
    """Make a monitor that shows the builder's outermost phase as a bar on stderr, where that is a terminal."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._bars: dict[str, tqdm] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            from tqdm import tqdm

            if parent is None:
                self._bars[phase] = tqdm(desc=phase, total=steps, leave=False, disable=not sys.stderr.isatty())

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self._bars:
                self._bars[phase].update()
            return True  # continue

        def phase_finish(self, phase: str) -> None:
            if phase in self._bars:
                self._bars.pop(phase).close()

    return Monitor()


def _one_line(text: str, limit: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
