"""Build TensorRT plans from an exported ONNX file, each with the manifest that `rice_lib.backends.plan` reads.

The builder uses the calls that TensorRT 10 and 11 have in common: a strongly typed network, whose precision is that of
the ONNX file. `tensorrt_rtx` has the same ones and builds on a machine without a GPU, which is how it is tested.
"""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rice_lib.backends.cuda import find_gpu
from rice_lib.backends.onnx import OnnxPredictor
from rice_lib.backends.plan import (
    Agreement,
    BatchProfile,
    EngineManifest,
    Flavour,
    TensorRTPredictor,
    import_tensorrt,
    make_logger,
    manifest_file,
)
from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path, sha256_file
from rice_lib.contract.decode import IMAGE_SIZE

WORKSPACE_MB = 2048
"""Scratch memory of the builder: a ViT-B at batch 512 takes less."""

LEAST_LABELS_EQUAL = 0.995
"""Share of images that a plan must give the label that ONNX Runtime gives: the rest are ties, which rounding turns."""

LOGIT_TOLERANCE = {"float32": 1e-2, "float16": 5e-2}
"""Largest accepted mean absolute difference of a logit, by precision: TensorRT's float32 is TF32, of ten bits."""


def build_engine(
    onnx_path: Path,
    plan: Path,
    profile: BatchProfile | None = None,
    *,
    flavour: Flavour = "tensorrt",
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
        pixels: images to accept the plan on, uint8 `[N, 224, 224, 3]`; None accepts it unchecked.

    Raises:
        RiceError: TensorRT is not installed, finds no GPU where it needs one, or cannot parse or build the
            model; or the plan disagrees with ONNX Runtime.
    """
    profile = profile or BatchProfile()
    trt = import_tensorrt(flavour)
    gpu = find_gpu()
    if gpu is None and flavour == "tensorrt":
        raise RiceError("TensorRT builds for the GPU at hand, and there is none here (or no cuda-bindings to find it)")
    if gpu is None and pixels is not None:
        raise RiceError(f"{flavour}: a plan is checked on images by a GPU, and there is none here; leave out --images")
    with OnnxPredictor(onnx_path) as model:  # proves that the file is one of ours before minutes go into it
        built = _build(trt, onnx_path, profile)
        with atomic_path(plan) as temporary:
            temporary.write_bytes(built)
            manifest = EngineManifest(
                flavour=flavour,
                tensorrt=trt.__version__,
                gpu=gpu,
                onnx=str(onnx_path),
                onnx_sha256=sha256_file(onnx_path),
                plan_sha256=sha256_file(temporary),
                precision=model.precision,
                profile=profile,
                labels=model.labels,
                decision=model.decision.to_json(),
            )
            if pixels is not None:
                manifest = replace(manifest, agreement=_accept(temporary, manifest, model, pixels))
    manifest.write(plan)
    return manifest


def _accept(plan: Path, manifest: EngineManifest, reference: OnnxPredictor, pixels: np.ndarray) -> Agreement:
    """Run a plan that has no manifest yet on images; raises `RiceError` with the figures where it disagrees."""
    try:
        manifest.write(plan)
        with TensorRTPredictor(plan) as candidate:
            agreement = Agreement.of(candidate.logits(pixels), reference.logits(pixels))
    finally:
        manifest_file(plan).unlink(missing_ok=True)
    tolerance = LOGIT_TOLERANCE[manifest.precision]
    equal_enough = agreement.labels_equal >= LEAST_LABELS_EQUAL * agreement.images
    if not (equal_enough and agreement.mean_abs_difference <= tolerance):  # not NaN either
        raise RiceError(
            f"{manifest.onnx}: the plan built of it is rejected: {agreement}; required are {LEAST_LABELS_EQUAL:.1%} of "
            f"the labels and {tolerance:g} on average; export it in float32, or build with another TensorRT",
            1,
        )
    return agreement


def _build(trt: Any, onnx_path: Path, profile: BatchProfile) -> bytes:
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_path)):
        faults = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise _failure(f"{onnx_path}: {trt.__name__} {trt.__version__} cannot parse it", faults)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_MB << 20)
    shapes = builder.create_optimization_profile()
    image = (IMAGE_SIZE, IMAGE_SIZE, 3)
    shapes.set_shape(network.get_input(0).name, (profile.min, *image), (profile.opt, *image), (profile.max, *image))
    config.add_optimization_profile(shapes)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise _failure(
            f"{onnx_path}: {trt.__name__} {trt.__version__} could not build a plan", "; ".join(logger.errors)
        )
    return bytes(serialized)


def _failure(what: str, why: str) -> RiceError:
    return RiceError(f"{what} ({textwrap.shorten(why, 300, placeholder='...') or 'no reason given'})", 1)
