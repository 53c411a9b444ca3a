"""Measure a classifier of grains by photographs it has not seen, where many grains come from few photographs.

Grains of one photograph share its light, focus and scale: they are one group, which no fold tears, and the error bars
are those of photographs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict, cross_val_score

from rice_lib.common.tracking import Metric, share_of
from rice_lib.contract.decision import Decision, RejectionRule
from rice_lib.contract.features import COLUMN
from rice_lib.models.calibration import REJECTED_SHARE, fit_rejection_rule, fit_temperature

FOLDS = 5  # at most; a class of fewer photographs has one a fold
DRAWS = 20  # of photographs, for each point of a learning curve
RESAMPLES = 1000  # of the bootstraps
MOST_REJECTED = 0.02  # share of the grains of photographs not seen whose appearance the rule may reject
LEAST_POINTS = 3  # of a learning curve that is extended: two points lie on any curve


def shared(groups: np.ndarray) -> bool:
    """Say whether most images share their group with others, as the grains of a photograph do."""
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return bool(np.median(counts[inverse]) > 1)


def fewest(labels: np.ndarray, groups: np.ndarray) -> int:
    """Count the groups of the class that has the fewest."""
    return min(len(np.unique(groups[labels == number])) for number in np.unique(labels))


def out_of_fold(
    classifier: BaseEstimator, values: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cross-validate by group: log-probabilities, float64 `[n, classes]`, by a fit that has not seen the image's group;
    and the fold of each image, int `[n]`."""
    splits = StratifiedGroupKFold(min(FOLDS, fewest(labels, groups)), shuffle=True, random_state=seed)
    folds = np.empty(len(labels), int)
    for number, (_, held_out) in enumerate(splits.split(values, labels, groups)):
        folds[held_out] = number
    scores = cross_val_predict(classifier, values, labels, groups=groups, cv=splits, method="predict_log_proba")
    return scores, folds


def accuracy(correct: np.ndarray, groups: np.ndarray, seed: int, name: str = "accuracy") -> Metric:
    """Compute the share of correct images, with the bootstrap's interval over groups."""
    hits, sizes = (np.bincount(np.unique(groups, return_inverse=True)[1], weight) for weight in (correct, None))
    drawn = np.random.default_rng(seed).integers(0, len(sizes), (RESAMPLES, len(sizes)))
    low, high = np.quantile(hits[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [0.025, 0.975])
    how = f"bootstrap over {len(sizes)} photographs, {RESAMPLES} resamples"
    return Metric(float(np.mean(correct)), float(low), float(high), n=len(correct), how=how, name=name)


def majorities(predicted: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """List groups with their class, the class most of their images are predicted as, the images, and its share."""
    rows = []
    for group in np.unique(groups):
        votes = np.bincount(predicted[groups == group])
        share = share_of(int(votes.max()), int(votes.sum()))
        rows.append((classes[labels[groups == group][0]], classes[int(votes.argmax())], share.n, share))
    return pd.DataFrame(rows, columns=["variety", "predicted as", "grains", "share of them"])


def learning_curve(
    classifier: BaseEstimator, values: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int
) -> pd.DataFrame:
    """Measure accuracy on photographs not drawn, by the number drawn of each class to train on.

    Returns columns photographs and accuracy, `DRAWS` rows for each number.
    """
    rng, draws = np.random.default_rng(seed), []
    own = [np.unique(groups[labels == number]) for number in np.unique(labels)]
    counts = np.repeat(range(1, min(map(len, own))), DRAWS)
    for count in counts:
        known = np.isin(groups, np.concatenate([rng.permutation(of)[:count] for of in own]))
        draws.append((np.flatnonzero(known), np.flatnonzero(~known)))
    accuracies = cross_val_score(classifier, values, labels, cv=draws, error_score="raise") if draws else []
    return pd.DataFrame({"photographs": counts, "accuracy": accuracies})


def extend(curve: pd.DataFrame, photographs: int, seed: int) -> Metric | None:
    """Extend a learning curve to a number of photographs, as a power law of the error (Cortes et al. 1994, NIPS 6:327).

    None where it has fewer than `LEAST_POINTS`, or where its rise is not beyond what the draws scatter.
    """
    errors = 1 - np.array([of_number["accuracy"] for _, of_number in curve.groupby("photographs")])
    if len(errors) < LEAST_POINTS:
        return None
    drawn = np.random.default_rng(seed).integers(0, errors.shape[1], (RESAMPLES, *errors.shape))
    means = np.concatenate([errors.mean(axis=1)[None], np.take_along_axis(errors[None], drawn, axis=2).mean(axis=2)])
    numbers = np.log(curve["photographs"].unique())
    slopes, levels = np.polyfit(numbers, np.log(np.maximum(means, 1e-4)).T, 1)
    found = 1 - np.exp(levels + slopes * np.log(photographs))
    if np.quantile(slopes[1:], 0.975) >= 0:
        return None
    low, high = np.quantile(found[1:], [0.025, 0.975])
    return Metric(float(found[0]), float(low), float(high))


def calibrate(
    scores: np.ndarray, folds: np.ndarray, labels: np.ndarray, features: np.ndarray, seed: int
) -> tuple[Decision, Metric]:
    """Calibrate a classifier that was fitted on all images, by what `out_of_fold` gave.

    Each image's distance is that from clusters which have not seen its fold. The limit is set by all of these, and
    raised where a limit set by the other folds would reject more than `MOST_REJECTED` of a fold: so much do few
    photographs differ from the next.

    Takes log-probabilities, `[n, classes]`, and of each image its fold and class number, int `[n]`, and its
    `extract_features`, float32 `[n, M]`; the seed is that of the clusters. Returns the decision, and the share of
    images that it rejects of photographs it has not seen.
    """
    distances = np.empty(len(labels))
    for number in np.unique(folds):
        known, held_out = folds != number, folds == number
        pair = (features[held_out], scores[held_out])
        rule = fit_rejection_rule((features[known], labels[known]), pair, seed=seed)
        distances[held_out] = rule.distances(pair[1], pair[0])
    whole = fit_rejection_rule((features, labels), (features, scores), seed=seed)
    # a structure that many of these grains have (a dark spot counts as a hole) is no reason to reject the next
    quantiles = np.quantile(features, [REJECTED_SHARE / 2, 1 - REJECTED_SHARE / 2], axis=0)
    limits = {}
    for name, (low, high) in whole.limits.items():
        lowest, highest = quantiles[:, COLUMN[name]].tolist()
        limits[name] = min(low, lowest), max(high, highest)
    odd = np.array([r is not None for r in RejectionRule(limits, whole.clusters, np.inf).reasons(scores, features)])
    # of each image, in units of the limit that the other folds set
    apart = distances / np.array([_limit(distances[folds != number]) for number in folds])
    margin = max(1.0, float(np.quantile(apart, 1 - MOST_REJECTED)))
    rule = RejectionRule(limits, whole.clusters, margin * _limit(distances))
    how = "cross-validation by photograph"
    price = share_of(int((odd | (apart > margin)).sum()), len(labels), how=how, name="rejected")
    about = {"training_images": len(labels), "validation": how}
    return Decision(fit_temperature(scores, labels), rule, about), price


def _limit(distances: np.ndarray) -> float:
    return float(np.quantile(distances, 1 - REJECTED_SHARE))
