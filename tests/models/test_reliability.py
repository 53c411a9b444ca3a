"""The expected calibration error against its definition, and its interval against chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rice_lib.models.metrics import BINS, calibration_error, expected_calibration_error


def by_definition(labels: np.ndarray, scores: np.ndarray) -> float:
    """Guo et al. 2017, equation 3, written out; the bins half open to the right."""
    confidence, correct = scores.max(axis=1), scores.argmax(axis=1) == labels
    total = 0.0
    for number in range(BINS):
        last = number == BINS - 1
        low, high = number / BINS, (number + 1) / BINS
        inside = (confidence >= low) & ((confidence <= 1) if last else (confidence < high))
        if inside.any():
            total += inside.sum() / len(labels) * abs(correct[inside].mean() - confidence[inside].mean())
    return total


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 80), st.integers(0, 10_000))
def test_ece_is_its_definition(count, seed):
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet(np.full(5, 0.3), count)
    labels = rng.integers(0, 5, count)
    assert calibration_error(labels, scores) == pytest.approx(by_definition(labels, scores), abs=1e-9)


def test_a_certain_prediction_falls_into_the_last_bin():
    assert calibration_error(np.array([0, 0]), np.array([[1.0, 0.0], [0.0, 1.0]])) == 0.5


def test_the_interval_holds_the_value_and_narrows_with_images():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 8000)
    scores = np.stack([confidence, 1 - confidence], axis=1)
    labels = (rng.random(8000) > confidence - 0.1).astype(int)  # surer by 0.1 than it may be
    small, large = (expected_calibration_error(labels[:n], scores[:n], seed=1) for n in (400, 8000))
    for metric in (small, large):
        assert metric.low <= metric.value <= metric.high
    assert large.low <= 0.1 <= large.high
    assert large.high - large.low < 0.5 * (small.high - small.low)
    assert large == expected_calibration_error(labels, scores, seed=1)
    assert "15 bins" in large.how


def test_perfect_predictions_have_no_error_and_no_width():
    scores = np.eye(5)[np.arange(50) % 5]
    metric = expected_calibration_error(np.arange(50) % 5, scores, seed=1)
    assert (metric.value, metric.low, metric.high) == (0, 0, 0)
