"""One photograph of a tray, from its pixels to its record."""

from __future__ import annotations

import numpy as np

from rice_lib.contract.prediction import Classifier
from rice_lib.tray.classify import classify
from rice_lib.tray.find import find
from rice_lib.tray.light import gains
from rice_lib.tray.record import TrayRecord, count, rejected_together
from rice_lib.tray.scale import for_model, misfit, set_reference_aside
from rice_lib.tray.sheet import BROKEN_BELOW, measure


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
    views = for_model(predictor.decision.scale if predictor.decision else None, predictor.labels, mm_per_pixel)
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
