"""The configurations of the models that serve one classifier, as the texts of Triton's `config.pbtxt`.

    rice                 pixels under the image contract to logits
    rice_bytes           bytes of files to varieties
    rice_v1              version 1's classifier, by ONNX Runtime or TensorRT
    rice_v1_decode       version 1's bytes to pixels         (Python, `models/decode.py`)
    rice_v1_postprocess  version 1's logits to varieties     (Python, `models/postprocess.py`)

Clients call the first two: ensembles that compute nothing, and name the version that answers. A version's own models
carry its number, because Triton takes an ensemble down while one of its models is loaded again.

The fields are Triton's:
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from google.protobuf import json_format, text_format

from rice_lib.backends.triton import import_tritonclient
from rice_lib.contract.decision import KEY, Decision
from rice_lib.contract.decode import IMAGE_SIZE
from rice_lib.contract.features import FEATURES

Engine = Literal["onnxruntime", "gpu", "tensorrt"]
"""What computes the classifier: ONNX Runtime on the CPU's cores, ONNX Runtime on the GPU, a TensorRT plan."""

Config = Mapping[str, Any]  # a `ModelConfig` message, its fields named as in `config.pbtxt`
INPUT, OUTPUT, FILE = "images", "logits", "file"
"""Names of the exported model's tensors (`rice_lib.export.onnx`), and of the ensemble's: a file's bytes a row."""

LABELS_FILE, WARMUP_FILE = "labels.txt", "grain"  # beside the configuration; the second in Triton's folder `warmup/`
MAX_QUEUE = 4096
"""Requests that may wait for a model; the next is answered 503 at once.

More than clients send at once: where some 270 of an ensemble are rejected together, the HTTP front loses the answers of
the others (libevhtp hands them to its threads by a socket, and drops what does not fit in).
"""


def _tensor(name: str, kind: str, *dims: int) -> dict[str, Any]:
    return {"name": name, "data_type": f"TYPE_{kind}", "dims": [*dims] or [1]}


_PIXELS = _tensor(INPUT, "UINT8", IMAGE_SIZE, IMAGE_SIZE, 3)
_IMAGES = _PIXELS | {"format": "FORMAT_NHWC"}  # as an input: by this NVIDIA's image clients know where the colours lie
_BESIDE_PIXELS = [_tensor("features", "FP32", len(FEATURES)), _tensor("notes", "STRING"), _tensor("error", "STRING")]


def classifier_config(
    name: str, labels: Sequence[str], max_batch: int, instances: int, engine: Engine = "onnxruntime"
) -> dict[str, Any]:
    """Configure a classifier: input `images` uint8 `[224, 224, 3]`, output `logits` float32 `[classes]`.

    `max_batch` limits the images of one request, and of one batch that the server merges. On a CPU, `instances` have
    one thread each, so that none waits for another.
    """
    config = _model(name, max_batch, instances) | {
        "input": [_IMAGES],
        "output": [_tensor(OUTPUT, "FP32", len(labels)) | {"label_filename": LABELS_FILE}],
        "model_warmup": [_warmup(images, _PIXELS, random_data=True) for images in sorted({1, max_batch})],
    }
    if engine == "onnxruntime":
        # ONNX Runtime's own threads spin: two instances with a thread each are faster than one with two
        config["parameters"] = _parameters(intra_op_thread_count="1")
    else:
        config["instance_group"] = [{"count": 1, "kind": "KIND_GPU"}]
    if engine == "tensorrt":
        return config | {"platform": "tensorrt_plan", "default_model_filename": "model.plan"}
    return config | {"backend": "onnxruntime", "default_model_filename": "model.onnx"}


def decode_config(name: str, max_batch: int, instances: int) -> dict[str, Any]:
    """Configure `models/decode.py`: input `file` BYTES `[1]`; outputs `images`, `features`, `notes`, `error`."""
    file = _tensor(FILE, "STRING")
    config = _model(name, max_batch, instances) | {
        "backend": "python",
        "input": [file],
        "output": [_PIXELS, *_BESIDE_PIXELS],
        "model_warmup": [_warmup(1, file, input_data_file=WARMUP_FILE)],
    }
    # one request at a time: a malformed one would fail those it is merged with before any code of ours sees them
    config["dynamic_batching"]["preferred_batch_size"] = [1]
    return config


def postprocess_config(name: str, labels: Sequence[str], max_batch: int) -> dict[str, Any]:
    """Configure `models/postprocess.py`.

    Inputs: `logits`, and what `models/decode.py` gives beside the pixels. Outputs: `variety`, `confidence` (its score;
    0 where the image is rejected or cannot be read, as a tensor has no null), `scores` float32 `[classes]`, `reason`,
    and `record`, the JSON that `rice infer` prints.
    """
    scores = _tensor("scores", "FP32", len(labels)) | {"label_filename": LABELS_FILE}
    texts = {name: _tensor(name, "STRING") for name in ("variety", "reason", "record")}
    return _model(name, max_batch, 1) | {
        "backend": "python",
        "input": [_tensor(OUTPUT, "FP32", len(labels)), *_BESIDE_PIXELS],
        "output": [texts["variety"], _tensor("confidence", "FP32"), scores, texts["reason"], texts["record"]],
    }


def ensemble_config(
    name: str, version: int, labels: Sequence[str], steps: Sequence[Config], decision: Decision | None = None
) -> dict[str, Any]:
    """Configure an ensemble that runs models one after the other, joined by the names of their tensors.

    Its outputs are those of the last of `steps`, the models' configurations, and the texts of those before. Its
    parameters `labels` (a JSON list), `version` and `decision` say whose the logits are and how they are read.
    """
    texts = [out for step in steps[:-1] for out in step["output"] if out["data_type"] == "TYPE_STRING"]
    parameters = {"labels": json.dumps(list(labels)), "version": str(version)}
    if decision is not None:
        parameters[KEY] = decision.to_json()

    def names(tensors: Sequence[Config]) -> dict[str, str]:
        return {tensor["name"]: tensor["name"] for tensor in tensors}

    scheduled = [
        {"model_name": s["name"], "model_version": -1, "input_map": names(s["input"]), "output_map": names(s["output"])}
        for s in steps
    ]
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": steps[0]["max_batch_size"],
        "version_policy": {"specific": {"versions": [version]}},
        "input": steps[0]["input"],
        "output": [*steps[-1]["output"], *texts],
        "ensemble_scheduling": {"step": scheduled},
        "parameters": _parameters(**parameters),
    }


def format_config(config: Config) -> str:
    """Write a configuration as the text of a `config.pbtxt`; raises `RiceError` where tritonclient is missing."""
    message = json_format.ParseDict(config, import_tritonclient("grpc").model_config_pb2.ModelConfig())
    return text_format.MessageToString(message, use_short_repeated_primitives=True)


def parse_config(text: str) -> dict[str, Any]:
    """Read the text of a `config.pbtxt`; raises `text_format.ParseError` where it is damaged."""
    message = text_format.Parse(text, import_tritonclient("grpc").model_config_pb2.ModelConfig())
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _model(name: str, max_batch: int, instances: int) -> dict[str, Any]:
    return {
        "name": name,
        "max_batch_size": max_batch,
        # no delay: requests that wait while a batch is computed are merged, and a lone one is never held up
        "dynamic_batching": {"default_queue_policy": {"max_queue_size": MAX_QUEUE}},
        "instance_group": [{"count": instances, "kind": "KIND_CPU"}],
    }


def _warmup(images: int, tensor: Config, **data: Any) -> dict[str, Any]:
    kind = {key: tensor[key] for key in ("data_type", "dims")}
    return {"name": f"{images} images", "batch_size": images, "inputs": {tensor["name"]: kind | data}}


def _parameters(**values: str) -> dict[str, Any]:
    return {key: {"string_value": value} for key, value in values.items()}
