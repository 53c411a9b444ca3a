"""Triton model, Python backend: the bytes of image files in, pixels under the image contract out.

It decodes by this project's `contract`, copied beside it: a version decodes as it did when it was made.
"""

import binascii
import os
import re
import sys

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from rice_lib.contract.decode import IMAGE_SIZE, configure_pillow, decode_with_notes
from rice_lib.contract.features import FEATURES, extract_features
from rice_lib.contract.image_file import BadImageError


class TritonPythonModel:
    """One instance: what Triton's Python backend calls. The server runs as many as there are cores."""

    def initialize(self, _args: dict) -> None:
        """Set Pillow up as the commands do."""
        configure_pillow()

    def execute(self, requests: list) -> list:
        """Decode the files of each request; one response each, in order."""
        return [_respond(request) for request in requests]


def _from_base64(data: bytes) -> bytes:
    """Decode what a client that has only JSON sends, also as a data URL; images, of other bytes, are left alone."""
    text = re.fullmatch(rb"(?:data:[\w/.+-]++;base64,)?([A-Za-z0-9+/\r\n]++={0,2}+)[\r\n]*+", data)
    try:
        return binascii.a2b_base64(text[1]) if text else data
    except binascii.Error:
        return data


def _respond(request: "pb_utils.InferenceRequest") -> "pb_utils.InferenceResponse":
    """Turn `file` BYTES `[N, 1]` into `images` uint8 `[N, 224, 224, 3]`, `features`, `notes` and `error`.

    A file that cannot be read leaves a black image and its error, and the others of the request are classified; a
    request of which no file can be read fails with the first error.
    """
    files = pb_utils.get_input_tensor_by_name(request, "file").as_numpy().ravel()
    images = np.zeros((len(files), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    features = np.zeros((len(files), len(FEATURES)), np.float32)
    notes = np.full((len(files), 1), b"", np.object_)
    errors = np.full((len(files), 1), b"", np.object_)
    for row, data in enumerate(files):
        try:
            images[row], said = decode_with_notes(_from_base64(data))
            notes[row] = "; ".join(said).encode()
        except BadImageError as error:
            errors[row] = str(error).encode()
    readable = [row for row, error in enumerate(errors.ravel()) if not error]
    if not readable:
        failure = pb_utils.TritonError(errors[0, 0].decode(), pb_utils.TritonError.INVALID_ARG)
        return pb_utils.InferenceResponse(error=failure)
    for row in readable:  # in a loop of its own: each kind of work runs faster where it stays with its own code
        features[row] = extract_features(images[row])
    columns = {"images": images, "features": features, "notes": notes, "error": errors}
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, column) for name, column in columns.items()])
