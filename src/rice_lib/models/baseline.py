"""Train baselines: logistic regression on ten plain features of a grain, and on a frozen CNN's features.

They are kept as safetensors (the numbers) beside JSON (what they mean). Nothing is pickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path, write_json
from rice_lib.common.run import Run
from rice_lib.common.tracking import provenance
from rice_lib.data.loading import Examples, open_examples

ITERATIONS = 3000  # of the solver (L-BFGS), which converges in a few hundred


@dataclass(frozen=True)
class Task:
    """A split scheme as the baselines see it: training images, perhaps thinned, and the test split."""

    scheme: str
    train: Examples
    test: Examples


@dataclass(frozen=True)
class Features:
    """Features of some images: `rows` of the manifest, int64 `[n]` ascending; `values` float32 `[n, d]`."""

    rows: np.ndarray
    values: np.ndarray

    def of(self, examples: Examples) -> np.ndarray:
        """Take the features of these images, float32 `[len(examples), d]`; KeyError where one has none."""
        place = np.searchsorted(self.rows, examples.rows).clip(max=len(self.rows) - 1)
        if not np.array_equal(self.rows[place], examples.rows):
            raise KeyError("images whose features were not computed")
        return self.values[place]


@dataclass(frozen=True)
class LinearClassifier:
    """scikit-learn's standard scaler and multinomial logistic regression as plain float64 arrays, see `_ARRAYS`."""

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    about: Mapping[str, Any]
    """Labels, kind, scheme, settings and provenance, as the JSON says them."""

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Compute probabilities of the classes, float64 `[n, classes]`, from features `[n, d]`."""
        return softmax((features.astype(np.float64) - self.mean) / self.scale @ self.weights.T + self.bias, axis=1)

    def save(self, folder: Path, name: str) -> list[Path]:
        """Write `<name>.safetensors` and `<name>.json` into a folder; returns the two files."""
        arrays, about = folder / f"{name}.safetensors", folder / f"{name}.json"
        with atomic_path(arrays) as temporary:
            temporary.write_bytes(save({key: np.ascontiguousarray(getattr(self, key)) for key in _ARRAYS}))
        write_json(about, {"arrays": _ARRAYS, **self.about})
        return [arrays, about]


@dataclass(frozen=True)
class TestedBaseline:
    """A trained baseline and its probabilities, float64 `[n, classes]`, on the test images of its scheme."""

    classifier: LinearClassifier
    test: Examples
    scores: np.ndarray


_ARRAYS = {
    "mean": "StandardScaler: subtracted from the features",
    "scale": "StandardScaler: divides them",
    "weights": "logistic regression: [labels, features]",
    "bias": "logistic regression: [labels]",
}


def open_task(run: Run, scheme: str) -> Task:
    """Open the images of a scheme, the training images thinned to `baseline.max_train_images`.

    Raises:
        RiceError: the split is not there, or a variety has no training image.
    """
    train = thin(open_examples(run.paths, scheme, "train"), run.params.baseline.max_train_images, run.params.seed)
    for number, name in enumerate(train.classes):
        if number not in train.labels:
            raise RiceError(f"split {scheme}: no training image of {name}; the baseline needs every variety")
    return Task(scheme, train, open_examples(run.paths, scheme, "test"))


def thin(examples: Examples, limit: int | None, seed: int) -> Examples:
    """Draw at most `limit` of the examples at random; each class keeps its share, and they their order."""
    if limit is None or limit >= len(examples):
        return examples
    rng = np.random.default_rng(seed)
    turn = np.empty(len(examples))  # where an image comes in the shuffled queue of its class, 0 to 1
    for number in np.unique(examples.labels):
        members = np.flatnonzero(examples.labels == number)
        turn[members] = (rng.permutation(len(members)) + 0.5) / len(members)
    return examples.take(np.sort(np.argsort(turn, kind="stable")[:limit]))


def extract(
    tasks: Sequence[Task], compute: Callable[[np.ndarray], np.ndarray], batch_size: int, title: str
) -> Features:
    """Compute the features of every image of the tasks (of one manifest) once; shows progress.

    `compute` takes uint8 `[n, 224, 224, 3]`, at most `batch_size` images, to float32 `[n, d]`.
    """
    rows = np.unique(np.concatenate([part.rows for task in tasks for part in (task.train, task.test)]))
    images = Examples(tasks[0].test.pixels, rows, np.zeros_like(rows), [], ())
    return Features(rows, np.concatenate([compute(batch) for batch in images.batches(batch_size, title)]))


def fit(
    features: np.ndarray, labels: np.ndarray, regularisation_c: float, about: Mapping[str, Any]
) -> LinearClassifier:
    """Fit a standard scaler, then multinomial logistic regression (scikit-learn, L2, L-BFGS).

    Args:
        features: float `[n, d]`.
        labels: class numbers, int `[n]`; every variety occurs.
        regularisation_c: inverse of the L2 penalty's strength.
        about: kept with the classifier.

    Raises:
        RiceError: the solver did not converge.
    """
    scaler = StandardScaler()
    standard = scaler.fit_transform(features.astype(np.float64))
    regression = LogisticRegression(C=regularisation_c, max_iter=ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            regression.fit(standard, labels)
        except ConvergenceWarning:
            fault = f"logistic regression did not converge in {ITERATIONS} steps at {regularisation_c:g}"
            raise RiceError(f"baseline.regularisation_c: {fault}; try a smaller one") from None
    weights, bias = regression.coef_, regression.intercept_
    if len(weights) == 1:  # of two classes scikit-learn gives the log-odds of the second
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    return LinearClassifier(scaler.mean_, scaler.scale_, weights, bias, about)


def fit_and_test(run: Run, task: Task, kind: str, features: Features) -> TestedBaseline:
    """Train on a task, save into `paths.baseline` as `<kind>_<scheme>`, and score the test images."""
    about = {
        "labels": task.train.classes,
        "kind": kind,
        "scheme": task.scheme,
        "baseline": run.params.baseline.model_dump(mode="json"),
        "train_images": len(task.train),
        "provenance": provenance(run),
    }
    classifier = fit(features.of(task.train), task.train.labels, run.params.baseline.regularisation_c, about)
    classifier.save(run.paths.baseline, f"{kind}_{task.scheme}")
    return TestedBaseline(classifier, task.test, classifier.scores(features.of(task.test)))
