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
import pandas as pd
from safetensors.numpy import save
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path, write_json
from rice_lib.common.run import Run
from rice_lib.common.tracking import provenance
from rice_lib.data.loading import Examples, open_examples

ITERATIONS = 3000  # of the solver (L-BFGS), which converges in a few hundred

_ARRAYS = {
    "mean": "StandardScaler: subtracted from the features",
    "scale": "StandardScaler: divides them",
    "weights": "logistic regression: [labels, features]",
    "bias": "logistic regression: [labels]",
}


@dataclass(frozen=True)
class Task:
    """A split scheme as the baselines see it: training images, perhaps thinned, and the test split."""

    scheme: str
    train: Examples
    test: Examples


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
) -> pd.DataFrame:
    """Compute the features of every image of the tasks (of one manifest) once; shows progress.

    `compute` takes uint8 `[n, 224, 224, 3]`, at most `batch_size` images, to float32 `[n, d]`. The table is indexed by
    the images' rows in the manifest: `table.loc[examples.rows]`.
    """
    rows = np.unique(np.concatenate([part.rows for task in tasks for part in (task.train, task.test)]))
    images = Examples(tasks[0].test.pixels, rows, np.zeros_like(rows), [], ())
    return pd.DataFrame(np.concatenate([compute(batch) for batch in images.batches(batch_size, title)]), index=rows)


def linear_classifier(regularisation_c: float = 1.0) -> Pipeline:
    """Create a classifier of features, unfitted: standard scaler, then multinomial logistic regression (L2, L-BFGS).

    It computes in float64. `regularisation_c` is the inverse of the L2 penalty's strength.
    """
    double = FunctionTransformer(np.asarray, kw_args={"dtype": np.float64})
    return make_pipeline(double, StandardScaler(), LogisticRegression(C=regularisation_c, max_iter=ITERATIONS))


def fit(features: np.ndarray | pd.DataFrame, labels: np.ndarray, regularisation_c: float) -> Pipeline:
    """Fit `linear_classifier` to features `[n, d]` and class numbers, int `[n]`; every variety occurs.

    Raises:
        RiceError: the solver did not converge.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            return linear_classifier(regularisation_c).fit(features, labels)
        except ConvergenceWarning:
            fault = f"logistic regression did not converge in {ITERATIONS} steps at {regularisation_c:g}"
            raise RiceError(f"baseline.regularisation_c: {fault}; try a smaller one") from None


def weights(linear: Any) -> tuple[np.ndarray, np.ndarray]:
    """Read the weights `[classes, d]` and bias `[classes]` of scikit-learn's linear classifier.

    Of two classes scikit-learn keeps the log-odds of the second: they are shared out.
    """
    weight, bias = linear.coef_, linear.intercept_
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


def save_classifier(classifier: Pipeline, folder: Path, name: str, about: Mapping[str, Any]) -> None:
    """Write a fitted `linear_classifier` as `<name>.safetensors`, and what its arrays mean as `<name>.json`."""
    scaler = classifier[-2]
    values = dict(zip(_ARRAYS, (scaler.mean_, scaler.scale_, *weights(classifier[-1])), strict=True))
    with atomic_path(folder / f"{name}.safetensors") as temporary:
        temporary.write_bytes(save({key: np.ascontiguousarray(value) for key, value in values.items()}))
    write_json(folder / f"{name}.json", {"arrays": _ARRAYS, **about})


def train(run: Run, task: Task, kind: str, features: pd.DataFrame) -> Pipeline:
    """Fit a classifier to a task's training images by their features of `extract`, and save it into `paths.baseline` as
    `<kind>_<scheme>`."""
    about = {
        "labels": task.train.classes,
        "kind": kind,
        "scheme": task.scheme,
        "baseline": run.params.baseline.model_dump(mode="json"),
        "train_images": len(task.train),
        "provenance": provenance(run),
    }
    classifier = fit(features.loc[task.train.rows], task.train.labels, run.params.baseline.regularisation_c)
    save_classifier(classifier, run.paths.baseline, f"{kind}_{task.scheme}", about)
    return classifier
