"""Measured by photographs not seen: folds, intervals, the learning curve and what it says, the rejection rule."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from rice_lib.contract.decision import APPEARANCE
from rice_lib.contract.features import COLUMN, FEATURES
from rice_lib.models import photographs

NAMES = ("a", "b", "c")


def grains(per_class: int = 4, each: int = 15, light: float = 1.0, seed: int = 0):
    """Features of grains, class numbers and photographs; each photograph has a light of its own."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(3 * per_class), each)
    labels = groups // per_class
    values = rng.normal(0, 1.2, (3, 6))[labels] + light * rng.normal(0, 1, (3 * per_class, 6))[groups]
    return values + rng.normal(0, 1, (len(groups), 6)), labels, groups


def test_no_fold_divides_a_photograph_and_each_image_is_predicted_unseen():
    values, labels, groups = grains()
    scores, folds = photographs.out_of_fold(LinearDiscriminantAnalysis(), values, labels, groups, 83)
    assert scores.shape == (len(labels), 3)
    assert all(len(np.unique(folds[groups == group])) == 1 for group in np.unique(groups))
    for fold in np.unique(folds):
        known = folds != fold
        fitted = LinearDiscriminantAnalysis().fit(values[known], labels[known])
        assert scores[~known] == pytest.approx(fitted.predict_log_proba(values[~known]))


def test_the_interval_is_that_of_photographs():
    correct, groups = np.repeat([1, 0, 1, 1, 0, 1], 20), np.repeat(np.arange(6), 20)
    grouped, single = (photographs.accuracy(correct, of, 83) for of in (groups, np.arange(120)))
    assert grouped.value == single.value == pytest.approx(2 / 3)
    assert grouped.high - grouped.low > 3 * (single.high - single.low)


def test_groups_are_photographs_where_most_images_share_theirs():
    assert photographs.shared(np.repeat(np.arange(4), 5))
    assert not photographs.shared(np.array([0, 0, 1, 2, 3, 4, 5]))


def test_a_photograph_is_answered_by_its_majority():
    predicted, labels, groups = np.array([0, 0, 1, 2, 2, 1]), np.array([0, 0, 0, 1, 1, 1]), np.repeat([7, 9], 3)
    found = photographs.majorities(predicted, labels, groups, NAMES)
    assert found[["variety", "predicted as", "grains"]].values.tolist() == [["a", "a", 3], ["b", "c", 3]]
    assert found["share of them"][0].value == pytest.approx(2 / 3)


def test_a_curve_that_rises_is_extended_and_others_are_not():
    values, labels, groups = grains(per_class=6)
    curve = photographs.learning_curve(LinearDiscriminantAnalysis(), values, labels, groups, 83)
    assert sorted(curve["photographs"].unique()) == [1, 2, 3, 4, 5]
    outlook = photographs.extend(curve, 12, 83)
    last = curve.loc[curve["photographs"] == 5, "accuracy"].mean()
    assert last < outlook.value < 1
    assert outlook.low <= outlook.value <= outlook.high
    assert photographs.extend(curve[curve["photographs"] < 3], 12, 83) is None
    flat = curve.assign(accuracy=np.random.default_rng(0).permutation(curve["accuracy"]))
    assert photographs.extend(flat, 12, 83) is None


def test_the_rejection_rule_keeps_grains_of_photographs_it_has_not_seen_and_rejects_others():
    rng = np.random.default_rng(1)
    values, labels, groups = grains(per_class=5, each=20, light=0.5)
    features = rng.normal(0, 1, (len(labels), len(FEATURES))).astype(np.float32)
    features[:, [COLUMN[name] for name in APPEARANCE[:6]]] = values
    features[:, COLUMN["rim"]], features[:, COLUMN["objects"]] = 0, 1
    for name in ("area", "solidity", "fill"):
        features[:, COLUMN[name]] = rng.uniform(0.8, 0.9, len(labels))
    scores, folds = photographs.out_of_fold(LinearDiscriminantAnalysis(), values, labels, groups, 83)
    decision, price = photographs.calibrate(scores, folds, labels, features, 83)
    assert price.value < 0.06
    strange = features.copy()
    strange[:, COLUMN["luma"]] += 30
    rejected = [np.mean([r is not None for r in decision.rejections(scores, of)]) for of in (features, strange)]
    assert rejected[0] < 0.03
    assert rejected[1] > 0.95
