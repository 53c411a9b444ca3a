"""One photograph of a tray, from its pixels to its record: its grains found, classified and counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rice_lib.contract.prediction import Classifier, Prediction, predict
from rice_lib.tray.find import Grain, find
from rice_lib.tray.frame import frame, gains
from rice_lib.tray.record import TrayRecord, count, rejected_together
from rice_lib.tray.scale import View, for_model, misfit, set_reference_aside
from rice_lib.tray.sheet import BROKEN_BELOW, measure

NO_VARIETY = "unlike the training images (no variety at this size)"

MIN_SCORE = 0.5
"""Where millimetres are known, a grain is unknown if no variety scores this at a scale of its own: the model's first
choice may be a variety that was never photographed at that scale."""


def analyse(
    predictor: Classifier,
    path: str,
    image: np.ndarray,
    *,
    mm_per_pixel: float | None = None,
    reference_mm: float | None = None,
    broken_below: float = BROKEN_BELOW,
    reject: bool = True,
    batch_size: int = 32,
) -> TrayRecord:
    """Find, classify and count the grains of a tray, uint8 RGB `[H, W, 3]`, which its record calls `path`.

    The scale is given by `mm_per_pixel`, or by `reference_mm`, the diameter of a round object that lies among the
    grains. A grain is broken below `broken_below` times the whole grains' mean length. `reject` applies the model's
    rejection rule; `batch_size` grains go to the model in one call.

    Raises:
        BadImageError: not a tray of grains, no reference object on it, or a scale that the model needs is not given.
        RiceError: the engine failed.
    """
    found, notes = find(image), []
    if not found.background.darker:
        notes.append(
            "the background is brighter than the grains, whose shadows blur their outlines: about one in ten is "
            "misclassified; lay them on a dark or coloured card"
        )
    if not found.background.plain:
        notes.append("the background is uneven: what hardly differs from it is missed; a plain card is safer")
    grains = found.grains
    if reference_mm is not None:
        grains, _, mm_per_pixel = set_reference_aside(grains, reference_mm)
    views = for_model(predictor.decision.scale, predictor.labels, mm_per_pixel)
    if (times := misfit(grains, views)) is not None:
        notes.append(
            f"the grains fit no variety at this scale (they are about {times:.1f} times the size); give the tray's "
            "--mm-per-pixel, or lay a coin beside them and give its --reference-mm"
        )
    light = gains(image, grains)
    predictions = classify(predictor, image, grains, light, views, reject=reject, batch_size=batch_size)
    notes += rejected_together(predictions)
    counts = count(predictions, predictor.labels, len(found.cut))
    sheet = measure(image, grains, mm_per_pixel, broken_below)
    return TrayRecord(path, grains, predictions, counts, sheet, found.cut, mm_per_pixel, tuple(notes))


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
