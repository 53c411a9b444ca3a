"""The grains of a tray, classified: each at one scale, or at both where the millimetres are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rice_lib.contract.prediction import Classifier, Prediction, predict
from rice_lib.tray.find import Grain
from rice_lib.tray.frame import frame
from rice_lib.tray.scale import View

NO_VARIETY = "unlike the training images (no variety at this size)"

MIN_SCORE = 0.5
"""Where millimetres are known, a grain is unknown if no variety scores this at a scale of its own: the model's first
choice may be a variety that was never photographed at that scale."""


def classify(
    predictor: Classifier,
    image: np.ndarray,
    grains: Sequence[Grain],
    gains: np.ndarray,
    views: Sequence[View],
    *,
    reject: bool = True,
    batch_size: int = 32,
) -> list[Prediction]:
    """Classify every grain of a tray, uint8 RGB `[H, W, 3]`, shown at the scales `views`.

    `gains`, float `[len(grains)]`, is what each grain's brightness is multiplied by. `reject` applies the model's
    rejection rule; `batch_size` grains go to the model in one call.
    """
    lit = list(zip(grains, gains, strict=True))
    predictions: list[Prediction] = []
    for start in range(0, len(lit), batch_size):
        batch = lit[start : start + batch_size]
        by_view = [
            predict(predictor, np.stack([frame(image, own, view.factor, gain) for own, gain in batch]), reject=reject)
            for view in views
        ]
        predictions += [_combine(of_grain, views, reject) for of_grain in zip(*by_view, strict=True)]
    return predictions


def _combine(predictions: Sequence[Prediction], views: Sequence[View], reject: bool) -> Prediction:
    """Combine the predictions at each scale: a variety gets its best score at a scale of its own, or at any."""
    if len(predictions) == 1:
        return predictions[0]
    named = {name for view in views for name in view.varieties or ()}
    scores = dict.fromkeys(predictions[0].scores, 0.0)
    for prediction, view in zip(predictions, views, strict=True):
        if prediction.reason is None:
            for name, score in prediction.scores.items():
                if view.varieties is None or name in view.varieties or name not in named:
                    scores[name] = max(scores[name], score)
    reason = None
    if reject and max(scores.values()) < MIN_SCORE:
        all_rejected = all(prediction.reason is not None for prediction in predictions)
        reason = predictions[0].reason if all_rejected else NO_VARIETY
    total = max(1.0, sum(scores.values()))
    return Prediction({name: score / total for name, score in scores.items()}, reason)
