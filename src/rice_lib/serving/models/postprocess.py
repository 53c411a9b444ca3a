"""Triton model, Python backend: logits in, variety, confidence and scores out, by the decision of the served version.

The last step of the ensemble. `decision.json` beside it is the model's own, so the server says `unknown` where
`rice infer` does; the rule is this project's `decision`, copied into the version's folder like the decoder's code.
"""

import json
import os
import sys
from collections.abc import Iterable

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from rice_lib.contract.decision import Decision
from rice_lib.contract.record import Record


class TritonPythonModel:
    """One instance: what Triton's Python backend calls."""

    def initialize(self, args: dict) -> None:
        """Read the version's `decision.json`: the labels, and how the logits are read."""
        file = os.path.join(args["model_repository"], args["model_version"], "decision.json")
        with open(file, encoding="utf-8") as stream:
            told = json.load(stream)
        self.labels = told["labels"]
        self.decision = Decision.from_json(json.dumps(told["decision"])) if told["decision"] else Decision()

    def execute(self, requests: list) -> list:
        """Read the logits of each request; one response each, in order."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: "pb_utils.InferenceRequest") -> "pb_utils.InferenceResponse":
        """`logits` float32 `[N, classes]`, `features`, `notes` and `error` to `variety`, `confidence`, `scores`,
        `reason` and `record`.

        `confidence` is that of the likeliest variety, also where the image is refused. A file that could not be read
        (`error`) has no variety and zeros for scores.
        """
        logits, features, notes, errors = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("logits", "features", "notes", "error")
        )
        scores = self.decision.probabilities(logits)
        rows = zip(
            scores.tolist(), self.decision.rejections(logits, features), notes.ravel(), errors.ravel(), strict=True
        )
        records = [self._record(*row) for row in rows]
        failed = errors.ravel() != b""
        scores[failed] = 0.0
        columns = {
            "variety": _texts(record.get("label", "") for record in records),
            "confidence": scores.max(axis=1, keepdims=True).astype(np.float32),
            "scores": scores.astype(np.float32),
            "reason": _texts(record.get("reason", "") for record in records),
            "record": _texts(json.dumps(record, ensure_ascii=False) for record in records),
        }
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, column) for name, column in columns.items()])

    def _record(self, scores: list, reason: "str | None", note: bytes, error: bytes) -> dict:
        """What `rice infer` writes of one file, without its path."""
        notes = tuple(note.decode().split("; ")) if note else ()
        told = dict(zip(self.labels, scores, strict=True))
        record = Record("", told, reason, notes, error.decode() or None).record(len(told))
        del record["path"]
        return record


def _texts(texts: "Iterable[str]") -> np.ndarray:
    """A column of strings, as the server takes it."""
    return np.array([text.encode() for text in texts], np.object_)[:, None]
