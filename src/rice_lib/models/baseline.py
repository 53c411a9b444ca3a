"""Train baselines: logistic regression on ten plain features of a grain, and on a frozen CNN's features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from rice_lib.data.loading import Examples

ITERATIONS = 3000  # of the solver (L-BFGS), which converges in a few hundred


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
    parts: Sequence[Examples], compute: Callable[[np.ndarray], np.ndarray], batch_size: int, title: str
) -> pd.DataFrame:
    """Compute the features of every image of some parts of splits (of one manifest) once; shows progress.

    `compute` takes uint8 `[n, 224, 224, 3]`, at most `batch_size` images, to float32 `[n, d]`. The table is indexed by
    the images' rows in the manifest: `table.loc[examples.rows]`.
    """
    rows = np.unique(np.concatenate([part.rows for part in parts]))
    images = Examples(parts[0].pixels, rows, np.zeros_like(rows), [], ())
    return pd.DataFrame(np.concatenate([compute(batch) for batch in images.batches(batch_size, title)]), index=rows)


def linear_classifier(regularisation_c: float = 1.0) -> Pipeline:
    """Create a classifier of features, unfitted: standard scaler, then multinomial logistic regression (L2, L-BFGS).

    It computes in float64. `regularisation_c` is the inverse of the L2 penalty's strength.
    """
    double = FunctionTransformer(np.asarray, kw_args={"dtype": np.float64})
    return make_pipeline(double, StandardScaler(), LogisticRegression(C=regularisation_c, max_iter=ITERATIONS))


def weights(linear: Any) -> tuple[np.ndarray, np.ndarray]:
    """Read the weights `[classes, d]` and bias `[classes]` of scikit-learn's linear classifier.

    Of two classes scikit-learn keeps the log-odds of the second: they are shared out.
    """
    weight, bias = linear.coef_, linear.intercept_
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias
