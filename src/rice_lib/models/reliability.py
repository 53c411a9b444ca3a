"""Measure how well a model's confidence is calibrated: of images predicted with 90 %, nine in ten should be correct."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rice_lib.common.tracking import Metric

BINS = 15
"""Of equal width from 0 to 1, as in Guo, Pleiss, Sun & Weinberger 2017 (arXiv:1706.04599)."""

RESAMPLES = 500  # of the bootstrap
TAIL = 0.025  # left outside on either side of the interval


@dataclass
class Reliability:
    """Images by the confidence of the prediction."""

    edges: np.ndarray
    """Of the bins of confidence, float `[bins + 1]`."""
    counts: np.ndarray
    """Images in each, `[bins]`."""
    accuracy: np.ndarray
    """Share of them that is correct, 0 where there are none."""
    confidence: np.ndarray
    """Their mean confidence, 0 where there are none."""
    error: float
    """The expected calibration error: the mean distance of `confidence` from `accuracy`, over images."""


def reliability(labels: np.ndarray, scores: np.ndarray, bins: int = BINS) -> Reliability:
    """Compute the reliability diagram's numbers of the predicted class (Guo et al. 2017, section 2).

    Args:
        labels: true class numbers, int `[n]`.
        scores: probabilities, float `[n, classes]`.
        bins: of equal width from 0 to 1.
    """
    confidence, correct = scores.max(axis=1), scores.argmax(axis=1) == labels
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    per_image = np.maximum(counts, 1)
    share = np.bincount(place, correct, minlength=bins) / per_image
    mean = np.bincount(place, confidence, minlength=bins) / per_image
    error = float((counts * np.abs(share - mean)).sum() / max(counts.sum(), 1))
    return Reliability(np.linspace(0, 1, bins + 1), counts, share, mean, error)


def expected_calibration_error(labels: np.ndarray, scores: np.ndarray, seed: int) -> Metric:
    """Compute the ECE of the predicted class over bins of equal width (Naeini, Cooper & Hauskrecht 2015, AAAI 29:2901).

    The interval is a bootstrap's over images, moved by the resamples' mean excess: chance scatter only ever adds to an
    ECE, so a resample's is larger than the sample's.

    Labels and scores are as in `reliability`.
    """
    value = reliability(labels, scores).error
    rng, n = np.random.default_rng(seed), len(labels)
    draws = (rng.integers(0, n, n) for _ in range(RESAMPLES))
    errors = np.array([reliability(labels[rows], scores[rows]).error for rows in draws])
    low, high = np.quantile(errors, [TAIL, 1 - TAIL]) - max(errors.mean() - value, 0)
    how = f"{BINS} bins of equal width; bootstrap, {RESAMPLES} resamples"
    low, high = max(0.0, min(float(low), value)), max(float(high), value)
    return Metric(value, low, high, n=n, how=how, name="expected calibration error")
