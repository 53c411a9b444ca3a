"""What is written of one input: its path, and a prediction or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rice_lib.contract.prediction import Prediction

DECIMALS = 6
"""Digits of a score that are written: float32 holds no more."""


@dataclass(frozen=True, slots=True)
class Record:
    """One input: predicted, rejected with a reason (`unknown`), or failed with an error."""

    path: str
    prediction: Prediction | None = None
    """None where the file could not be read."""
    notes: tuple[str, ...] = ()
    """What was done to the file that a person may want to know (the first of several frames was taken)."""
    error: str | None = None
    """Why the file could not be read."""

    @property
    def label(self) -> str | None:
        """The predicted class, `unknown` where the image is rejected, None where the file could not be read."""
        return None if self.prediction is None else self.prediction.label

    @property
    def reason(self) -> str | None:
        """Why the image is rejected."""
        return None if self.prediction is None else self.prediction.reason

    def as_dict(self, top_k: int) -> dict[str, Any]:
        """The record as it is written: `{"path", "label", "confidence", "scores"}`, or `{"path", "error"}`.

        `scores` are the `top_k` highest, highest first, by class name.
        A rejected image has the label `unknown`, no confidence (null), and a `reason`; `notes` are there where there
        are any.
        """
        notes = {"notes": list(self.notes)} if self.notes else {}
        if self.prediction is None:
            return {"path": self.path, "error": self.error, **notes}
        ranked = sorted(self.prediction.scores.items(), key=lambda pair: -pair[1])[:top_k]
        scores = {name: round(score, DECIMALS) for name, score in ranked}
        label = self.prediction.label
        record: dict[str, Any] = {"path": self.path, "label": label, "confidence": scores.get(label)}
        if self.reason is not None:
            record["reason"] = self.reason
        return {**record, "scores": scores, **notes}
