"""The configurations of the models that serve one classifier, as Triton's `config.pbtxt` texts.

    rice            pixels under the image contract to logits
    rice_bytes      bytes of files to varieties
    rice_v1         version 1's classifier, by ONNX Runtime or TensorRT
    rice_v1_decode  version 1's way from bytes to pixels          (Python, `models/decode.py`)
    rice_v1_tell    version 1's way from logits to varieties      (Python, `models/tell.py`)

The first two are what clients ask: ensembles that hold nothing and say which version answers. A version's own models
have names of their own, because Triton takes an ensemble down while a model that it is made of is loaded anew.

The fields are Triton's:
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rice_lib.common.errors import RiceError
from rice_lib.contract.decision import KEY, Decision
from rice_lib.contract.decode import IMAGE_SIZE
from rice_lib.contract.features import FEATURES

Engine = Literal["onnxruntime", "gpu", "tensorrt"]
ENGINES: tuple[Engine, ...] = ("onnxruntime", "gpu", "tensorrt")
"""What computes the classifier: ONNX Runtime on the CPU's cores, ONNX Runtime on the GPU, a TensorRT plan."""

INPUT, OUTPUT = "images", "logits"
"""Names of the exported model's tensors (`rice_lib.export.onnx`)."""

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
    """The models' names, made of the one that clients ask for logits."""

    classifier: str

    @property
    def ensemble(self) -> str:
        """What clients ask with the bytes of files."""
        return f"{self.classifier}_bytes"

    @property
    def public(self) -> tuple[str, str]:
        """What clients ask."""
        return self.classifier, self.ensemble

    def steps(self, version: int) -> tuple[str, str, str]:
        """A version's own models: files to pixels, pixels to logits, logits to varieties."""
        own = f"{self.classifier}_v{version}"
        return f"{own}_decode", own, f"{own}_tell"


@dataclass(frozen=True)
class Served:
    """What the configurations say of a version."""

    version: int
    labels: Sequence[str]
    decision: Decision | None
    max_batch: int
    """Most images of one request, and of one batch that the server puts together."""
    instances: int
    """Of each model, on a CPU: one a core, each with one thread, so that none waits for another."""


def classifier_config(name: str, served: Served, engine: Engine = "onnxruntime") -> str:
    """Input `images` uint8 `[224, 224, 3]`, output `logits` float32 `[classes]`.

    Raises:
        RiceError: tritonclient is not installed.
    """
    pb = _protobuf()
    config = _common(name, served)
    if engine == "tensorrt":
        config.platform, config.default_model_filename = "tensorrt_plan", "model.plan"
    else:
        config.backend, config.default_model_filename = "onnxruntime", "model.onnx"
    _logits(config, served)
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
    return _text(config)


def decode_config(name: str, served: Served) -> str:
    """Input `file` BYTES `[1]`; outputs `images`, `features`, `notes`, `error`."""
    pb = _protobuf()
    config = _python(name, served, served.instances)
    # requests are not merged here: one whose bytes are no list of strings would fail those it is merged with, before
    # any code of ours sees them; the classifier merges the pixels
    config.dynamic_batching.preferred_batch_size.append(1)
    config.input.add(name=FILE, data_type=pb.TYPE_STRING, dims=[1])
    config.output.add(name=INPUT, data_type=pb.TYPE_UINT8, dims=[IMAGE_SIZE, IMAGE_SIZE, 3])
    config.output.add(name="features", data_type=pb.TYPE_FP32, dims=[len(FEATURES)])
    for text in ("notes", "error"):
        config.output.add(name=text, data_type=pb.TYPE_STRING, dims=[1])
    warmup = config.model_warmup.add(name="a grain", batch_size=1)
    warmup.inputs[FILE].CopyFrom(pb.ModelWarmup.Input(data_type=pb.TYPE_STRING, dims=[1], input_data_file=WARMUP_FILE))
    return _text(config)


def tell_config(name: str, served: Served) -> str:
    """Inputs `logits`, `features`, `notes`, `error`; outputs `TOLD`."""
    pb = _protobuf()
    config = _python(name, served, 1)
    config.input.add(name=OUTPUT, data_type=pb.TYPE_FP32, dims=[len(served.labels)])
    config.input.add(name="features", data_type=pb.TYPE_FP32, dims=[len(FEATURES)])
    for text in ("notes", "error"):
        config.input.add(name=text, data_type=pb.TYPE_STRING, dims=[1])
    _answers(config, served, TOLD)
    return _text(config)


def pixels_config(names: Names, served: Served) -> str:
    """The classifier under the name that clients ask: input `images`, output `logits`.

    The parameters `labels` (a JSON list), `decision` and `version` say how the logits are read and whose they are.
    """
    config = _ensemble(names.classifier, served)
    _logits(config, served)
    _step(config, names.steps(served.version)[1], (INPUT,), (OUTPUT,))
    if served.decision is not None:
        config.parameters[KEY].string_value = served.decision.to_json()
    return _text(config)


def bytes_config(names: Names, served: Served) -> str:
    """The whole way: input `file` BYTES `[1]`, outputs `ANSWERS`."""
    pb = _protobuf()
    config = _ensemble(names.ensemble, served)
    config.input.add(name=FILE, data_type=pb.TYPE_STRING, dims=[1])
    _answers(config, served, ANSWERS)
    decode, classify, tell = names.steps(served.version)
    _step(config, decode, (FILE,), (INPUT, "features", "notes", "error"))
    _step(config, classify, (INPUT,), (OUTPUT,))
    _step(config, tell, (OUTPUT, "features", "notes", "error"), TOLD)
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


def _common(name: str, served: Served) -> Any:
    config = _protobuf().ModelConfig(name=name, max_batch_size=served.max_batch)
    # no delay: requests that wait while a batch is computed are merged, and a lone one is never held up
    config.dynamic_batching.default_queue_policy.max_queue_size = MAX_QUEUE
    return config


def _python(name: str, served: Served, instances: int) -> Any:
    config = _common(name, served)
    config.backend = "python"
    config.instance_group.add(count=instances, kind=_protobuf().ModelInstanceGroup.KIND_CPU)
    return config


def _ensemble(name: str, served: Served) -> Any:
    config = _protobuf().ModelConfig(name=name, platform="ensemble", max_batch_size=served.max_batch)
    config.version_policy.specific.versions.append(served.version)
    config.parameters["labels"].string_value = json.dumps(list(served.labels))
    config.parameters["version"].string_value = str(served.version)
    return config


def _step(config: Any, model: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    step = config.ensemble_scheduling.step.add(model_name=model, model_version=-1)
    step.input_map.update({tensor: tensor for tensor in inputs})
    step.output_map.update({tensor: tensor for tensor in outputs})


def _logits(config: Any, served: Served) -> None:
    pb = _protobuf()
    config.input.add(name=INPUT, data_type=pb.TYPE_UINT8, dims=[IMAGE_SIZE, IMAGE_SIZE, 3])
    config.output.add(name=OUTPUT, data_type=pb.TYPE_FP32, dims=[len(served.labels)], label_filename=LABELS_FILE)


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
