"""Triton's model repository: one folder that serves on a laptop and, unchanged, in NVIDIA's container.

    <repository>/<name>/config.pbtxt            ONNX Runtime: what a server takes by itself
    <repository>/<name>/configs/tensorrt.pbtxt  the TensorRT variant: taken by `--model-config-name=tensorrt`
    <repository>/<name>/labels.txt              class names for Triton's classification extension
    <repository>/<name>/1/model.onnx            (and model.plan, once serving/build_plan.sh has built it)

Both configurations have the same name, input, output and labels, so a client cannot tell them apart. The
layout is Triton's:
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rice_lib.decision import KEY, Decision
from rice_lib.deploy.predictors import open_predictor
from rice_lib.errors import RiceError
from rice_lib.preprocess import IMAGE_SIZE

Engine = Literal["onnxruntime", "tensorrt"]

INPUT, OUTPUT = "images", "logits"
"""Names of the exported model's tensors (`rice_lib.deploy.onnx`)."""

CONFIG_FILES: dict[Engine, str] = {"onnxruntime": "config.pbtxt", "tensorrt": "configs/tensorrt.pbtxt"}
"""A server takes `configs/<x>.pbtxt` where started with `--model-config-name=<x>`, else `config.pbtxt`."""

LABELS_FILE = "labels.txt"
VERSION = 1


def model_config(
    name: str,
    labels: Sequence[str],
    max_batch_size: int,
    engine: Engine = "onnxruntime",
    decision: Decision | None = None,
) -> str:
    """The text of a `config.pbtxt`.

    Args:
        name: the model's name, which is its folder's.
        labels: class names in the order of the logits.
        max_batch_size: most images of one request, and of one batch that the server puts together.
        engine: `onnxruntime` serves `model.onnx`, `tensorrt` serves `model.plan`.
        decision: how the logits are read; None where the model carries none.

    Returns:
        A `ModelConfig` in protobuf's text format: input `images` uint8 `[224, 224, 3]`, output `logits`
        float32 `[len(labels)]`, dynamic batching, and the parameters `labels`, a JSON list, and `decision`.

    Raises:
        RiceError: tritonclient is not installed.
    """
    try:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2 as pb
    except ImportError:
        raise RiceError("tritonclient is not installed: pip install 'rice-lib[serve]'") from None

    config = pb.ModelConfig(name=name, max_batch_size=max_batch_size)
    if engine == "onnxruntime":
        config.backend, config.default_model_filename = "onnxruntime", "model.onnx"
    else:
        config.platform, config.default_model_filename = "tensorrt_plan", "model.plan"
    config.input.add(name=INPUT, data_type=pb.TYPE_UINT8, dims=[IMAGE_SIZE, IMAGE_SIZE, 3])
    config.output.add(name=OUTPUT, data_type=pb.TYPE_FP32, dims=[len(labels)], label_filename=LABELS_FILE)
    # No kind: a GPU where the server has one, else the CPU. One instance, because ONNX Runtime spreads one
    # batch over every core, and the server's default of two on a CPU would have them fight for the cores.
    config.instance_group.add(count=1)
    # No queue delay: requests that wait while a batch is computed are merged, and a lone request is never
    # held up.
    config.dynamic_batching.SetInParent()
    config.parameters["labels"].string_value = json.dumps(list(labels))
    if decision is not None:
        config.parameters[KEY].string_value = decision.to_json()
    return text_format.MessageToString(config, use_short_repeated_primitives=True)


def write_repository(model: Path, repository: Path, name: str, max_batch_size: int) -> Path:
    """Write a model into a repository: whole or not at all, and in place of an earlier one of that name.

    A plan that was built from the earlier model goes with it.

    Args:
        model: an ONNX file of this project; its labels and its decision are taken from its metadata.
        repository: the repository's folder; made where it is missing, other models in it are left alone.
        name: the model's name on the server.
        max_batch_size: most images of one request.

    Returns:
        The model's folder, `<repository>/<name>`.

    Raises:
        RiceError: the model is missing, damaged or not of this project, or the name does not fit.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise RiceError(f"serve.model_name {name!r}: use letters, digits, '_', '-' and '.', as in a file's name")
    if model.suffix != ".onnx":
        raise RiceError(f"{model}: the server takes an .onnx file (a plan is built from it by serving/build_plan.sh)")
    with open_predictor(model, threads=1) as predictor:
        labels, decision = predictor.labels, predictor.decision
    target = repository / name
    # beside the repository, not in it: a server that starts just now must not see half a model
    staged = repository.with_name(f".{repository.name}.{os.getpid()}.tmp")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        (staged / "configs").mkdir(parents=True)
        (staged / str(VERSION)).mkdir()
        shutil.copyfile(model, staged / str(VERSION) / "model.onnx")
        (staged / LABELS_FILE).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
        for engine, file in CONFIG_FILES.items():
            text = model_config(name, labels, max_batch_size, engine, decision)
            (staged / file).write_text(text, encoding="utf-8")
        repository.mkdir(parents=True, exist_ok=True)
        if target.exists():
            shutil.rmtree(target)
        staged.rename(target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return target


def repository_files(folder: Path) -> list[tuple[str, int]]:
    """Every file below a folder with its size in bytes, by path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files]
