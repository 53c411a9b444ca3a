"""The configurations of the four models that serve one classifier, as Triton's `config.pbtxt` texts.

    rice         the classifier: pixels under the image contract to logits, by ONNX Runtime or TensorRT
    rice_decode  bytes of files to pixels          (Python, `models/decode.py`)
    rice_tell    logits to variety and confidence  (Python, `models/tell.py`)
    rice_bytes   the ensemble of these: bytes of files in, varieties out

The fields are Triton's:
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rice_lib.decision import KEY, Decision
from rice_lib.errors import RiceError
from rice_lib.measures import MEASURES
from rice_lib.preprocess import IMAGE_SIZE

Engine = Literal["onnxruntime", "gpu", "tensorrt"]
ENGINES: tuple[Engine, ...] = ("onnxruntime", "gpu", "tensorrt")
"""What computes the classifier: ONNX Runtime on the CPU's cores, ONNX Runtime on the GPU, a TensorRT plan."""

INPUT, OUTPUT = "images", "logits"
"""Names of the exported model's tensors (`rice_lib.deploy.onnx`)."""

FILE = "file"
"""The ensemble's input: one file's bytes a row."""
TOLD = ("variety", "confidence", "scores", "reason", "record")
"""What the last step tells; `record` is all of it as the JSON that `rice infer` prints, for clients such as curl."""
ANSWERS = (*TOLD, "notes", "error")
"""The ensemble's outputs."""

LABELS_FILE, WARMUP_FILE = "labels.txt", "grain"
"""Beside the configuration; the second in Triton's folder `warmup/`."""

MAX_QUEUE = 256
"""Requests that may wait for a model; one more is answered 503 at once, so that memory stays bounded under any load."""


@dataclass(frozen=True)
class Names:
    """The four models' names, made of the classifier's."""

    classifier: str

    @property
    def decode(self) -> str:
        """Files to pixels."""
        return f"{self.classifier}_decode"

    @property
    def tell(self) -> str:
        """Logits to varieties."""
        return f"{self.classifier}_tell"

    @property
    def ensemble(self) -> str:
        """Files to varieties."""
        return f"{self.classifier}_bytes"

    @property
    def steps(self) -> tuple[str, str, str]:
        """The models that the ensemble is made of, in order."""
        return self.decode, self.classifier, self.tell


@dataclass(frozen=True)
class Served:
    """What the configurations say of the model that is served."""

    labels: Sequence[str]
    decision: Decision | None
    max_batch: int
    """Most images of one request, and of one batch that the server puts together."""
    instances: int
    """Of each model, on a CPU: one a core, each with one thread, so that none waits for another."""
    version: int
    """The one that answers."""
    loaded: tuple[int, ...]
    """Those that are loaded; more than the one that answers while a switch is under way."""


def classifier_config(name: str, served: Served, engine: Engine = "onnxruntime") -> str:
    """Input `images` uint8 `[224, 224, 3]`, output `logits` float32 `[classes]`; parameters `labels` (a JSON list),
    `decision` and `version`, by which clients know how to read the logits and whose they are.

    Raises:
        RiceError: tritonclient is not installed.
    """
    pb = _protobuf()
    config = _common(name, served)
    if engine == "tensorrt":
        config.platform, config.default_model_filename = "tensorrt_plan", "model.plan"
    else:
        config.backend, config.default_model_filename = "onnxruntime", "model.onnx"
    config.input.add(name=INPUT, data_type=pb.TYPE_UINT8, dims=[IMAGE_SIZE, IMAGE_SIZE, 3])
    config.output.add(name=OUTPUT, data_type=pb.TYPE_FP32, dims=[len(served.labels)], label_filename=LABELS_FILE)
    if engine == "onnxruntime":
        config.instance_group.add(count=served.instances, kind=pb.ModelInstanceGroup.KIND_CPU)
        # ONNX Runtime's own threads spin: two instances with a thread each are faster than one with two
        config.parameters["intra_op_thread_count"].string_value = "1"
    else:
        config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_GPU)
    for images in sorted({1, served.max_batch}):
        warmup = config.model_warmup.add(name=f"{images} images", batch_size=images)
        warmup.inputs[INPUT].CopyFrom(
            pb.ModelWarmup.Input(data_type=pb.TYPE_UINT8, dims=[IMAGE_SIZE, IMAGE_SIZE, 3], random_data=True)
        )
    config.parameters["labels"].string_value = json.dumps(list(served.labels))
    if served.decision is not None:
        config.parameters[KEY].string_value = served.decision.to_json()
    return _text(config)


def decode_config(name: str, served: Served) -> str:
    """Input `file` BYTES `[1]`; outputs `images`, `measures`, `notes`, `error`."""
    pb = _protobuf()
    config = _python(name, served, served.instances)
    config.input.add(name=FILE, data_type=pb.TYPE_STRING, dims=[1])
    config.output.add(name=INPUT, data_type=pb.TYPE_UINT8, dims=[IMAGE_SIZE, IMAGE_SIZE, 3])
    config.output.add(name="measures", data_type=pb.TYPE_FP32, dims=[len(MEASURES)])
    for text in ("notes", "error"):
        config.output.add(name=text, data_type=pb.TYPE_STRING, dims=[1])
    warmup = config.model_warmup.add(name="a grain", batch_size=1)
    warmup.inputs[FILE].CopyFrom(pb.ModelWarmup.Input(data_type=pb.TYPE_STRING, dims=[1], input_data_file=WARMUP_FILE))
    return _text(config)


def tell_config(name: str, served: Served) -> str:
    """Inputs `logits`, `measures`, `notes`, `error`; outputs `TOLD`."""
    pb = _protobuf()
    config = _python(name, served, 1)
    config.input.add(name=OUTPUT, data_type=pb.TYPE_FP32, dims=[len(served.labels)])
    config.input.add(name="measures", data_type=pb.TYPE_FP32, dims=[len(MEASURES)])
    for text in ("notes", "error"):
        config.input.add(name=text, data_type=pb.TYPE_STRING, dims=[1])
    _answers(config, served, TOLD)
    return _text(config)


def ensemble_config(names: Names, served: Served) -> str:
    """Input `file` BYTES `[1]`; outputs `ANSWERS`. Every step is of the version that answers."""
    pb = _protobuf()
    config = _common(names.ensemble, served, queue=False)
    config.platform = "ensemble"
    config.input.add(name=FILE, data_type=pb.TYPE_STRING, dims=[1])
    _answers(config, served, ANSWERS)
    tensors: list[tuple[str, Sequence[str], Sequence[str]]] = [
        (names.decode, (FILE,), (INPUT, "measures", "notes", "error")),
        (names.classifier, (INPUT,), (OUTPUT,)),
        (names.tell, (OUTPUT, "measures", "notes", "error"), TOLD),
    ]
    for model, inputs, outputs in tensors:
        step = config.ensemble_scheduling.step.add(model_name=model, model_version=served.version)
        step.input_map.update({tensor: tensor for tensor in inputs})
        step.output_map.update({tensor: tensor for tensor in outputs})
    config.parameters["labels"].string_value = json.dumps(list(served.labels))
    return _text(config)


def read_config(text: str) -> Any:
    """A `ModelConfig` message from the text of a `config.pbtxt`; raises `ValueError` where it is damaged."""
    from google.protobuf import text_format

    try:
        return text_format.Parse(text, _protobuf().ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(str(error)) from None


def _protobuf() -> Any:
    try:
        from tritonclient.grpc import model_config_pb2
    except ImportError:
        raise RiceError("tritonclient is not installed: pip install 'rice-lib[serve]'") from None
    return model_config_pb2


def _common(name: str, served: Served, queue: bool = True) -> Any:
    config = _protobuf().ModelConfig(name=name, max_batch_size=served.max_batch)
    config.version_policy.specific.versions.extend(served.loaded)
    config.parameters["version"].string_value = str(served.version)
    if queue:
        # no delay: requests that wait while a batch is computed are merged, and a lone one is never held up
        config.dynamic_batching.default_queue_policy.max_queue_size = MAX_QUEUE
    return config


def _python(name: str, served: Served, instances: int) -> Any:
    config = _common(name, served)
    config.backend = "python"
    config.instance_group.add(count=instances, kind=_protobuf().ModelInstanceGroup.KIND_CPU)
    return config


def _answers(config: Any, served: Served, names: Sequence[str]) -> None:
    pb = _protobuf()
    for name in names:
        if name == "scores":
            config.output.add(name=name, data_type=pb.TYPE_FP32, dims=[len(served.labels)], label_filename=LABELS_FILE)
        else:
            kind = pb.TYPE_FP32 if name == "confidence" else pb.TYPE_STRING
            config.output.add(name=name, data_type=kind, dims=[1])


def _text(config: Any) -> str:
    from google.protobuf import text_format

    return str(text_format.MessageToString(config, use_short_repeated_primitives=True))
