"""Measure how good a model and its confidence are, with the error bars that its number of test images allows.

Confidence is calibrated where of images predicted with 90 %, nine in ten are correct.

A predictions file lets two models be compared on the same images afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import confusion_matrix

from rice_lib.common.errors import RiceError
from rice_lib.common.files import write_csv
from rice_lib.common.interval import wilson
from rice_lib.common.tracking import Metric, share_of
from rice_lib.contract.prediction import predict

if TYPE_CHECKING:
    from rice_lib.backends.predictor import Predictor
    from rice_lib.data.loading import Examples

RESAMPLES = 2000  # of macro F1's bootstrap: each end of a 95 % interval rests on 50
CALIBRATION_RESAMPLES = 500  # of the calibration error's
BINS = 15
"""Of confidence, of equal width from 0 to 1, as in Guo, Pleiss, Sun & Weinberger 2017 (arXiv:1706.04599)."""
COLUMNS = ("path", "label", "predicted")  # then one a class


@dataclass(frozen=True)
class Predictions:
    """A model's predictions on images: `labels` and `predicted` int64 `[n]`, `scores` float64 `[n, classes]`."""

    paths: list[str]
    labels: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True)
class McNemar:
    """Images that only one of two models misclassifies, and the exact two-sided p-value of that."""

    only_a_wrong: int
    only_b_wrong: int
    p_value: float


def classification_metrics(
    labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str], seed: int
) -> dict[str, Metric]:
    """Compute accuracy, macro F1, F1 and recall of each variety, and the number of errors.

    Accuracy and recall have Wilson's interval. A class's F1 is 2J/(1+J) with J the share of true positives among the
    images that are of the class or predicted as it (Hand, Christen & Kirielle 2021, Machine Learning 110:451), so it
    has Wilson's interval of J, put through the same formula. Macro F1 has a percentile bootstrap's, over images; where
    there is no error to resample, the accuracy's.

    Args:
        labels: true class numbers, int `[n]`.
        predicted: predicted class numbers, int `[n]`.
        classes: names by number.
        seed: of the bootstrap.

    Returns:
        `accuracy`, `macro_f1`, `errors`, and `f1/<Variety>`, `recall/<Variety>`: of value None, with the reason, where
        a variety has no image (for F1: and no prediction).

    Raises:
        ValueError: the arrays are empty or differ in length.
    """
    if len(labels) == 0 or len(labels) != len(predicted):
        raise ValueError(f"{len(labels)} labels and {len(predicted)} predictions")
    counts = confusion_matrix(labels, predicted, labels=np.arange(len(classes)))
    n, correct = int(counts.sum()), int(np.trace(counts))
    metrics = {
        "accuracy": share_of(correct, n, name="accuracy"),
        "macro_f1": _macro_f1(counts, seed),
        "errors": Metric(n - correct, n=n, unit="images", name="misclassified"),
    }
    of_classes, as_classes = counts.sum(axis=1).tolist(), counts.sum(axis=0).tolist()
    for name, hits, of_class, as_class in zip(classes, np.diag(counts).tolist(), of_classes, as_classes, strict=True):
        about: dict[str, Any] = {"name": "recall", "of": {"variety": name}}
        absent = f"no image of {name} in the split"
        metrics[f"f1/{name}"] = replace(_f1(hits, of_class, as_class), name="F1", of=about["of"])
        metrics[f"recall/{name}"] = (
            share_of(hits, of_class, **about) if of_class else Metric(None, n=0, how=absent, **about)
        )
    return metrics


def mcnemar(labels: np.ndarray, a: np.ndarray, b: np.ndarray) -> McNemar:
    """Compare two models by McNemar's exact test on the same images (McNemar 1947, Psychometrika 12:153).

    Takes the true class numbers, and those predicted by each model, int `[n]`.
    """
    a_wrong, b_wrong = a != labels, b != labels
    only_a, only_b = int((a_wrong & ~b_wrong).sum()), int((b_wrong & ~a_wrong).sum())
    p_value = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return McNemar(only_a, only_b, float(p_value))


def _f1(true_positives: int, of_class: int, as_class: int) -> Metric:
    either = of_class + as_class - true_positives
    if either == 0:
        return Metric(None, n=0, how="no image of the variety in the split, and none predicted as it")
    value, low, high = (2 * j / (1 + j) for j in (true_positives / either, *wilson(true_positives, either)))
    return Metric(value, low, high, n=of_class, how="Wilson on the Jaccard share")


def _macro_f1(counts: np.ndarray, seed: int) -> Metric:
    n = int(counts.sum())
    low, high = wilson(n, n)
    how = "no error to resample: Wilson's interval of the accuracy"
    if np.trace(counts) < n:
        # resampling n images with replacement is one draw of the n-image multinomial over the matrix's cells
        cells = np.random.default_rng(seed).multinomial(n, counts.ravel() / n, size=RESAMPLES)
        low, high = np.quantile(_mean_f1(cells.reshape(-1, *counts.shape)), [0.025, 0.975]).tolist()
        how = f"bootstrap, {RESAMPLES} resamples"
    return Metric(float(_mean_f1(counts)), low, high, n=n, how=how, name="macro F1")


def _mean_f1(counts: np.ndarray) -> np.ndarray:
    """Average F1 over the classes that occur, of confusion matrices `[..., classes, classes]`."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    total = counts.sum(axis=-1) + counts.sum(axis=-2)
    return (2 * hits / np.maximum(total, 1)).sum(axis=-1) / (total > 0).sum(axis=-1)


def read_predictions(path: Path) -> Predictions:
    """Read a predictions file that `write_predictions` wrote; raises `RiceError` where it is another file."""
    try:
        table = pd.read_csv(path, keep_default_na=False)
        classes = tuple(table.drop(columns=list(COLUMNS)))
        number = {name: place for place, name in enumerate(classes)}
        labels, predicted = (np.array([number[name] for name in table[column]], np.int64) for column in COLUMNS[1:])
    except (ValueError, KeyError) as error:
        raise RiceError(f"{path}: not a predictions file ({str(error).splitlines()[0]})") from None
    return Predictions(table["path"].tolist(), labels, predicted, table[list(classes)].to_numpy(np.float64), classes)


def write_predictions(path: Path, examples: Examples, scores: np.ndarray) -> Predictions:
    """Write a predictions file (CSV: path, label, predicted, one probability a variety); returns its content.

    Args:
        path: the file, see `Paths.predictions`.
        examples: the images, in the order of the scores; only their paths and labels are read.
        scores: probabilities, float `[n, classes]`, columns as `examples.classes`; the largest is predicted.

    Raises:
        ValueError: wrong shape, or rows that are not probabilities (logits, NaN).
    """
    scores, classes = np.asarray(scores, np.float64), examples.classes
    if scores.shape != (len(examples.paths), len(classes)):
        raise ValueError(f"scores of shape {scores.shape} for {len(examples.paths)} images")
    if not np.allclose(scores.sum(axis=1), 1, atol=1e-3) or scores.min(initial=0) < 0:
        raise ValueError("scores must be probabilities, each row summing to 1: take the softmax of logits")
    predicted = scores.argmax(axis=1)
    names = np.array(classes)
    columns = (examples.paths, names[examples.labels], names[predicted], *np.char.mod("%.9g", scores).T)
    write_csv(path, (*COLUMNS, *classes), zip(*columns, strict=True))
    return Predictions(list(examples.paths), np.asarray(examples.labels, np.int64), predicted, scores, classes)


@dataclass(frozen=True)
class Evaluation:
    """What a model predicts of labelled images."""

    scores: np.ndarray
    """Probabilities, float64 `[n, classes]`: calibrated where the model carries a decision."""
    reasons: list[str | None] | None
    """Why an image is rejected, None where it is not; None for all where the model has no rejection rule."""

    def rejected(self) -> Metric:
        """Compute the share of the images that are rejected, with Wilson's interval."""
        if self.reasons is None:
            return Metric(None, n=0, how="the model carries no rejection rule", name="rejected")
        return share_of(sum(reason is not None for reason in self.reasons), len(self.reasons), name="rejected")


def label_columns(predictor: Predictor, classes: Sequence[str]) -> np.ndarray:
    """Find the place of each class among the model's logits; raises `RiceError` where its labels are others."""
    if sorted(predictor.labels) != sorted(classes):
        raise RiceError(f"{predictor.name}: predicts {', '.join(predictor.labels)}, not {', '.join(classes)}")
    return np.array([predictor.labels.index(name) for name in classes])


def evaluate(predictor: Predictor, examples: Examples, batch_size: int) -> Evaluation:
    """Predict labelled images; shows progress. Raises `RiceError` where the model's labels are not their classes."""
    label_columns(predictor, examples.classes)
    batches = examples.batches(batch_size, predictor.name)
    predictions = [prediction for pixels in batches for prediction in predict(predictor, pixels)]
    scores = np.array([[prediction.scores[name] for name in examples.classes] for prediction in predictions])
    reasons = [prediction.reason for prediction in predictions]
    return Evaluation(scores, reasons if predictor.decision.rejects else None)


def calibration_error(labels: np.ndarray, scores: np.ndarray) -> float:
    """Compute the mean distance of confidence from the share of correct predictions in `BINS` bins (Guo et al. 2017).

    Takes true class numbers, int `[n]`, and probabilities, float `[n, classes]`.
    """
    confidence, correct = scores.max(axis=1), scores.argmax(axis=1) == labels
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(place, correct - confidence)).sum() / len(labels))


def expected_calibration_error(labels: np.ndarray, scores: np.ndarray, seed: int) -> Metric:
    """Compute the ECE of the predicted class over bins of equal width (Naeini, Cooper & Hauskrecht 2015, AAAI 29:2901).

    The interval is a bootstrap's over images, moved by the resamples' mean excess: chance scatter only ever adds to an
    ECE, so a resample's is larger than the sample's.

    Labels and scores are as in `calibration_error`.
    """
    value = calibration_error(labels, scores)
    rng, n = np.random.default_rng(seed), len(labels)
    draws = (rng.integers(0, n, n) for _ in range(CALIBRATION_RESAMPLES))
    errors = np.array([calibration_error(labels[rows], scores[rows]) for rows in draws])
    low, high = np.quantile(errors, [0.025, 0.975]) - max(errors.mean() - value, 0)
    interval = max(0.0, min(float(low), value)), max(float(high), value)
    how = f"{BINS} bins of equal width; bootstrap, {CALIBRATION_RESAMPLES} resamples"
    return Metric(value, *interval, n=n, how=how, name="expected calibration error")
