"""One way from pixels to predictions, with a model of known logits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from support.models import grains

from rice_lib.contract.decision import NOT_A_GRAIN, Decision
from rice_lib.contract.features import FEATURES
from rice_lib.contract.prediction import UNKNOWN, feature_table, predict

LOGITS = np.array([[0, 2, 0], [3, 0, 0]], np.float32)


class OneObject:
    """A rejection rule that rejects what has another number of objects than one."""

    def reasons(self, logits, features):
        return [None if row[FEATURES.index("objects")] == 1 else f"{NOT_A_GRAIN} (several objects)" for row in features]


def model(decision: Decision) -> SimpleNamespace:
    return SimpleNamespace(labels=("a", "b", "c"), decision=decision, logits=lambda pixels: LOGITS[: len(pixels)])


def test_scores_are_calibrated_and_in_the_order_of_the_labels():
    first, second = predict(model(Decision(2.0)), grains(2))
    assert list(first.scores) == ["a", "b", "c"]
    assert first.scores["b"] == pytest.approx(np.e / (np.e + 2))
    assert (first.label, second.label) == ("b", "a")
    assert first.confidence == first.scores["b"]
    assert sum(first.scores.values()) == pytest.approx(1)
    plain, _ = predict(model(Decision()), grains(2))
    assert plain.scores["b"] == pytest.approx(np.e**2 / (np.e**2 + 2))


def test_a_rejected_image_is_unknown_without_a_confidence():
    pixels = np.stack([grains(1)[0], np.zeros((224, 224, 3), np.uint8)])
    kept, rejected = predict(model(Decision(1.0, OneObject())), pixels)
    assert (kept.label, kept.reason) == ("b", None)
    assert (rejected.label, rejected.confidence, rejected.likeliest) == (UNKNOWN, None, "a")
    assert rejected.reason.startswith(NOT_A_GRAIN)
    _, forced = predict(model(Decision(1.0, OneObject())), pixels, reject=False)
    assert (forced.label, forced.reason) == ("a", None)
    assert forced.scores == rejected.scores


def test_the_decision_is_read_after_the_logits():
    """A served model may switch versions during the call."""
    served = model(Decision(1.0))

    def logits(pixels):
        served.decision = Decision(1e6)
        return LOGITS

    served.logits = logits
    (prediction, _) = predict(served, grains(2))
    assert prediction.confidence == pytest.approx(1 / 3, abs=1e-5)


def test_no_images_have_a_table_without_rows():
    assert feature_table(grains(2)[:0]).shape == (0, len(FEATURES))
