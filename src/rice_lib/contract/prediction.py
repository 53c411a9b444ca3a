"""One way from pixels to predictions: `predict`.

The command, trays, explanations and evaluation call it; the server runs its second half, `read_logits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rice_lib.contract.decision import Decision
from rice_lib.contract.features import FEATURES, extract_features

UNKNOWN = "unknown"
"""The label of a rejected image."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one image."""

    scores: Mapping[str, float]
    """Calibrated probability of every class, 0 to 1, by class name in the order of the logits."""
    reason: str | None = None
    """Why the image is rejected; the scores are then what the model would have said."""

    @property
    def likeliest(self) -> str:
        """The class with the highest score, rejected or not."""
        return max(self.scores, key=self.scores.__getitem__)

    @property
    def label(self) -> str:
        """The likeliest class, or `unknown`."""
        return UNKNOWN if self.reason is not None else self.likeliest

    @property
    def confidence(self) -> float | None:
        """The score of the label; None where the image is rejected."""
        return None if self.reason is not None else self.scores[self.likeliest]


class Classifier(Protocol):
    """What `predict` needs of a model: `rice_lib.backends.predictor.Predictor` is one."""

    labels: tuple[str, ...]
    """Class names in the order of the logits."""
    decision: Decision
    """How the logits are read."""

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """float32 `[N, classes]` of uint8 `[N, 224, 224, 3]`."""


def predict(predictor: Classifier, pixels: np.ndarray, *, reject: bool = True) -> list[Prediction]:
    """Classify images.

    Args:
        predictor: the model.
        pixels: uint8 RGB `[N, 224, 224, 3]` under the image contract.
        reject: whether the model's rejection rule is applied.

    Returns:
        One prediction an image, in order.

    Raises:
        ValueError: pixels of another shape or dtype.
        RiceError: the engine failed.
    """
    logits = predictor.logits(pixels)
    # read after the call: a served model may have switched versions in between
    decision = predictor.decision
    if not (reject and decision.rejects):
        return read_logits(predictor.labels, Decision(decision.temperature), logits, np.empty((len(logits), 0)))
    return read_logits(predictor.labels, decision, logits, feature_table(pixels))


def read_logits(
    labels: Sequence[str], decision: Decision, logits: np.ndarray, features: np.ndarray
) -> list[Prediction]:
    """Turn logits into predictions: the half of `predict` that follows the model, which the server runs on its own.

    Args:
        labels: class names in the order of the logits.
        decision: the model's.
        logits: float32 `[N, classes]`.
        features: float32 `[N, features]`; not read where the decision rejects nothing.
    """
    scores = decision.probabilities(logits).tolist()
    reasons = decision.rejections(logits, features)
    return [
        Prediction(dict(zip(labels, row, strict=True)), reason) for row, reason in zip(scores, reasons, strict=True)
    ]


def feature_table(pixels: np.ndarray) -> np.ndarray:
    """Compute `extract_features` of each image: float32 `[N, features]` of uint8 `[N, H, W, 3]`."""
    return np.array([extract_features(image) for image in pixels], np.float32).reshape(-1, len(FEATURES))
