"""How far a model's confidence can be believed: the reliability diagram's numbers, and the expected calibration error.

Both look at the class told: of the images that a model tells with 90 % confidence, nine in ten should be told rightly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rice_lib.common.tracking import Metric

BINS = 15
"""Of equal width from 0 to 1, as in Guo, Pleiss, Sun & Weinberger 2017 (arXiv:1706.04599)."""

RESAMPLES = 500
"""Of the bootstrap."""

TAIL = 0.025
"""Left outside on either side of the interval."""


@dataclass
class Reliability:
    """Images by how sure the model said it was."""

    edges: np.ndarray
    """Of the bins of confidence, float `[bins + 1]`."""
    counts: np.ndarray
    """Images in each, `[bins]`."""
    right: np.ndarray
    """Share of them told rightly, 0 where there are none."""
    confidence: np.ndarray
    """Their mean confidence, 0 where there are none."""
    error: float
    """The expected calibration error: the mean distance of `confidence` from `right`, over images."""


def reliability(labels: np.ndarray, scores: np.ndarray, bins: int = BINS) -> Reliability:
    """The reliability diagram's numbers, for the class told: bins of equal width from 0 to 1 (Guo, Pleiss, Sun &
    Weinberger 2017, arXiv:1706.04599, section 2).

    Args:
        labels: true class numbers, int `[n]`.
        scores: probabilities, float `[n, classes]`.
        bins: how many.
    """
    confidence = scores.max(axis=1)
    return _reliability(confidence, scores.argmax(axis=1) == labels, bins)


def expected_calibration_error(labels: np.ndarray, scores: np.ndarray, seed: int, bins: int = BINS) -> Metric:
    """ECE (Naeini, Cooper & Hauskrecht 2015, AAAI 29:2901) over `bins` bins of equal width, for the class told.

    The interval is a bootstrap's over images, moved by the resamples' mean excess: chance scatter only ever adds to an
    ECE, so a resample's is larger than the sample's.

    Args:
        labels: true class numbers, int `[n]`.
        scores: probabilities, float `[n, classes]`.
        seed: of the bootstrap.
        bins: how many.
    """
    confidence, right = scores.max(axis=1), scores.argmax(axis=1) == labels
    value = _reliability(confidence, right, bins).error
    rng, n = np.random.default_rng(seed), len(labels)
    draws = (rng.integers(0, n, n) for _ in range(RESAMPLES))
    errors = np.array([_reliability(confidence[rows], right[rows], bins).error for rows in draws])
    low, high = np.quantile(errors, [TAIL, 1 - TAIL]) - max(errors.mean() - value, 0)
    how = f"{bins} bins of equal width; bootstrap, {RESAMPLES} resamples"
    low, high = max(0.0, min(float(low), value)), max(float(high), value)
    return Metric(value, low, high, n=n, how=how, name="expected calibration error")


def _reliability(confidence: np.ndarray, right: np.ndarray, bins: int) -> Reliability:
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    per_image = np.maximum(counts, 1)
    share = np.bincount(place, right, minlength=bins) / per_image
    mean = np.bincount(place, confidence, minlength=bins) / per_image
    error = float((counts * np.abs(share - mean)).sum() / max(counts.sum(), 1))
    return Reliability(np.linspace(0, 1, bins + 1), counts, share, mean, error)
