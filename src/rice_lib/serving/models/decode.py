"""Triton model, Python backend: the bytes of image files in, pixels under the image contract out.

The first step of the ensemble. What it decodes by is this project's own `preprocess` and `features`, copied beside it
into the version's folder, so that a version decodes as it did when it was made, and the server's environment needs
numpy and Pillow alone.
"""

import os
import sys

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from rice_lib.contract.decode import IMAGE_SIZE, decode_with_notes
from rice_lib.contract.features import FEATURES, measure
from rice_lib.contract.image_file import BadImageError


class TritonPythonModel:
    """One instance: what Triton's Python backend calls. The server runs as many as there are cores."""

    def execute(self, requests: list) -> list:
        """Decode the files of each request; one response each, in order."""
        return [_answer(request) for request in requests]


def _answer(request: "pb_utils.InferenceRequest") -> "pb_utils.InferenceResponse":
    """`file` BYTES `[N, 1]` to `images` uint8 `[N, 224, 224, 3]`, `features`, `notes` and `error`.

    A file that cannot be read leaves a black image and its reason, so that the others of its request are still told; a
    request of which no file can be read is refused with the reason.
    """
    files = pb_utils.get_input_tensor_by_name(request, "file").as_numpy().ravel()
    images = np.zeros((len(files), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    features = np.zeros((len(files), len(FEATURES)), np.float32)
    notes = np.full((len(files), 1), b"", np.object_)
    errors = np.full((len(files), 1), b"", np.object_)
    for row, data in enumerate(files):
        try:
            images[row], said = decode_with_notes(data)
            features[row] = measure(images[row])
            notes[row] = "; ".join(said).encode()
        except BadImageError as error:
            errors[row] = str(error).encode()
    if all(errors.ravel()):
        refusal = pb_utils.TritonError(errors[0, 0].decode(), pb_utils.TritonError.INVALID_ARG)
        return pb_utils.InferenceResponse(error=refusal)
    columns = {"images": images, "features": features, "notes": notes, "error": errors}
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, column) for name, column in columns.items()])
