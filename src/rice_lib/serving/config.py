"""The configurations of the models that serve one classifier: Triton's `config.pbtxt`, from the templates in `models/`.

    rice                 pixels under the image contract to logits           pixels.pbtxt
    rice_bytes           bytes of files to varieties                         files.pbtxt
    rice_v1              version 1's classifier, by ONNX Runtime or TensorRT classifier.pbtxt, and the engine's
    rice_v1_decode       version 1's bytes to pixels                         decode.pbtxt, decode.py
    rice_v1_postprocess  version 1's logits to varieties                     postprocess.pbtxt, postprocess.py

Clients call the first two: ensembles that compute nothing, and name the version that answers. A version's own models
carry its number, because Triton takes an ensemble down while one of its models is loaded again.

The fields are Triton's:
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from string import Template

INPUT, OUTPUT, FILE = "images", "logits", "file"
"""Names of the exported model's tensors (`rice_lib.export.onnx`), and of the ensemble's: a file's bytes a row."""

MODELS = Path(__file__).with_name("models")

MAX_QUEUE = 4096
"""Requests that may wait for a model; the next is answered 503 at once.

More than clients send at once: where some 270 of an ensemble are rejected together, the HTTP front loses the answers of
the others (libevhtp hands them to its threads by a socket, and drops what does not fit in).
"""


def fill_in(template: str, values: Mapping[str, object]) -> str:
    """Fill in `models/<template>.pbtxt`; raises `KeyError` for a value that it needs and does not get."""
    text = (MODELS / f"{template}.pbtxt").read_text(encoding="utf-8")
    return Template(text).substitute(values, max_queue=MAX_QUEUE)


def quoted(text: str) -> str:
    """Write a string as it stands in a configuration (JSON's escapes are among protobuf's)."""
    return json.dumps(text, ensure_ascii=False)
