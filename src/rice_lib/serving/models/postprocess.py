"""Triton model, Python backend: logits in; variety, confidence, scores, reason and record out.

It applies `decision.json` beside it, the model's own, by this project's `contract`, copied beside it too: labels,
reasons, scores and records are those of `rice infer`.
"""

import json
import os
import sys
from itertools import accumulate, pairwise

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from rice_lib.contract.decision import Decision
from rice_lib.contract.prediction import read_logits
from rice_lib.contract.record import Record


class TritonPythonModel:
    """One instance: what Triton's Python backend calls."""

    def initialize(self, args: dict) -> None:
        """Read the version's `decision.json`: the labels, and how the logits are read."""
        file = os.path.join(args["model_repository"], args["model_version"], "decision.json")
        with open(file, encoding="utf-8") as stream:
            values = json.load(stream)
        self.labels = values["labels"]
        self.decision = Decision.from_json(json.dumps(values["decision"]))

    def execute(self, requests: list) -> list:
        """Read the logits of the requests that the dynamic batcher collected as one batch; one response each, in order.

        Each brings `logits` float32 `[N, classes]`, `features`, `notes` and `error`, a row an image.
        """
        get, names = pb_utils.get_input_tensor_by_name, ("logits", "features", "notes", "error")
        tensors = [[get(request, name).as_numpy() for request in requests] for name in names]
        columns = self._columns(*map(np.concatenate, tensors))
        ends = [0, *accumulate(map(len, tensors[0]))]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(name, rows[start:end]) for name, rows in columns.items()])
            for start, end in pairwise(ends)
        ]

    def _columns(
        self, logits: np.ndarray, features: np.ndarray, notes: np.ndarray, errors: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Compute the outputs by name, a row an image.

        Where the image is rejected (`unknown`) or cannot be read, `confidence` is null in the record, and 0 in the
        tensor, which has no null. A file that cannot be read has no variety, and scores of 0.
        """
        predictions, records = read_logits(self.labels, self.decision, logits, features), []
        scores, confidence = np.zeros(logits.shape, np.float32), np.zeros((len(logits), 1), np.float32)
        for row, (prediction, note, error) in enumerate(zip(predictions, notes.ravel(), errors.ravel(), strict=True)):
            said = tuple(note.decode().split("; ")) if note else ()
            records.append(Record("", None, said, error.decode()) if error else Record("", prediction, said))
            if not error:
                scores[row] = list(prediction.scores.values())
                confidence[row] = prediction.confidence or 0.0
        texts = {
            "variety": [record.label or "" for record in records],
            "reason": [record.reason or "" for record in records],
            "record": [self._format(record) for record in records],
        }
        columns = {name: np.array([[text.encode()] for text in rows], np.object_) for name, rows in texts.items()}
        return {"confidence": confidence, "scores": scores, **columns}

    def _format(self, record: Record) -> str:
        """Format what `rice infer` writes of a file, without its path."""
        values = record.as_dict(len(self.labels))
        del values["path"]
        return json.dumps(values, ensure_ascii=False)
