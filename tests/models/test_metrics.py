"""The statistics against textbook values and brute force; predictions files; evaluation."""

import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, recall_score

from rice_lib.common.errors import RiceError
from rice_lib.data.synthetic import VARIETIES
from rice_lib.models import metrics


@pytest.fixture
def predictions() -> tuple[np.ndarray, np.ndarray]:
    """1,000 labels and predictions, about 30 of them incorrect."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 1000)
    predicted = labels.copy()
    wrong = rng.choice(1000, 40, replace=False)
    predicted[wrong] = rng.integers(0, 5, 40)
    return labels, predicted


def _examples(n: int) -> SimpleNamespace:
    labels = np.arange(n) % 5
    return SimpleNamespace(
        paths=[f"{VARIETIES[k]}/grain, ({i}).jpg" for i, k in enumerate(labels)], labels=labels, classes=VARIETIES
    )


def _scores(predicted: np.ndarray) -> np.ndarray:
    scores = np.full((len(predicted), 5), 0.025)
    scores[np.arange(len(predicted)), predicted] = 0.9
    return scores


def test_wilson_is_the_textbooks() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    assert metrics.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert metrics.wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert metrics.wilson(0, 0) == (0, 1)


def test_point_values_are_scikit_learns(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    found = metrics.classification_metrics(*predictions, VARIETIES, seed=83)
    f1, recall = f1_score(*predictions, average=None), recall_score(*predictions, average=None)
    assert found["accuracy"].value == pytest.approx((predictions[0] == predictions[1]).mean())
    assert found["macro_f1"].value == pytest.approx(f1.mean())
    assert [found[f"f1/{name}"].value for name in VARIETIES] == pytest.approx(list(f1))
    assert [found[f"recall/{name}"].value for name in VARIETIES] == pytest.approx(list(recall))
    assert found["errors"].value == (predictions[0] != predictions[1]).sum()
    assert found["accuracy"].n == found["macro_f1"].n == 1000


def test_multinomial_bootstrap_is_the_bootstrap_over_images(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    labels, predicted = predictions
    rng = np.random.default_rng(5)
    rows = rng.integers(0, 1000, (2000, 1000))
    true, predicted_as = labels[rows], predicted[rows]
    hits, cases = (
        np.stack([count(k) for k in range(5)])
        for count in (
            lambda k: ((true == k) & (predicted_as == k)).sum(axis=1),
            lambda k: (true == k).sum(axis=1) + (predicted_as == k).sum(axis=1),
        )
    )
    values = (2 * hits / cases).mean(axis=0)
    metric = metrics.classification_metrics(labels, predicted, VARIETIES, seed=83)["macro_f1"]
    assert (metric.low, metric.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.002)
    assert metric == metrics.classification_metrics(labels, predicted, VARIETIES, seed=83)["macro_f1"]


def test_intervals_of_the_full_test_split_are_quick() -> None:
    labels = np.arange(15_000) % 5
    predicted = np.where(np.arange(15_000) < 20, (labels + 1) % 5, labels)
    start = time.process_time()
    metrics.classification_metrics(labels, predicted, VARIETIES, seed=1)
    assert time.process_time() - start < 5


def test_no_error_still_has_an_interval() -> None:
    labels = np.arange(100) % 5
    found = metrics.classification_metrics(labels, labels, VARIETIES, seed=1)
    for name in ("accuracy", "macro_f1", "f1/Jasmine", "recall/Jasmine"):
        assert found[name].value == found[name].high == 1
        assert 0.8 < found[name].low < 0.97


def test_an_absent_variety_is_not_measured_and_not_in_the_mean() -> None:
    labels = np.arange(80) % 4
    found = metrics.classification_metrics(labels, labels, VARIETIES, seed=1)
    assert found["recall/Karacadag"].value is None
    assert "Karacadag" in found["recall/Karacadag"].how
    assert found["f1/Karacadag"].value is None
    assert found["macro_f1"].value == 1
    predicted_once = np.where(np.arange(80) == 0, 4, labels)
    assert metrics.classification_metrics(labels, predicted_once, VARIETIES, seed=1)["f1/Karacadag"].value == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_every_interval_holds_its_value(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = np.array(pairs).T
    for name, metric in metrics.classification_metrics(labels, predicted, VARIETIES, seed=3).items():
        if metric.value is not None and name not in ("errors", "macro_f1"):
            assert 0 <= metric.low <= metric.value <= metric.high <= 1, name


@pytest.mark.parametrize(("labels", "predicted"), [([], []), ([1, 2], [1])])
def test_nothing_to_measure(labels: list[int], predicted: list[int]) -> None:
    with pytest.raises(ValueError, match="labels and"):
        metrics.classification_metrics(np.array(labels), np.array(predicted), VARIETIES, seed=1)


def test_mcnemar_is_the_exact_binomial() -> None:
    labels = np.zeros(100, int)
    a, b = labels.copy(), labels.copy()
    a[:9] = 1  # 8 of them wrong in a alone
    b[8:11] = 1  # 2 of them wrong in b alone
    result = metrics.mcnemar(labels, a, b)
    assert (result.only_a_wrong, result.only_b_wrong) == (8, 2)
    assert result.p_value == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert metrics.mcnemar(labels, a, a).p_value == 1


def test_predictions_file_holds_what_was_written(tmp_path) -> None:
    examples, predicted = _examples(20), (np.arange(20) + (np.arange(20) == 7)) % 5
    written = metrics.write_predictions(tmp_path / "p" / "cnn_random.csv", examples, _scores(predicted))
    table = pd.read_csv(tmp_path / "p" / "cnn_random.csv", keep_default_na=False)
    assert table["path"].tolist() == written.paths == examples.paths
    assert table["label"].tolist() == [VARIETIES[number] for number in examples.labels]
    assert table["predicted"].tolist() == [VARIETIES[number] for number in predicted]
    np.testing.assert_array_equal(written.predicted, predicted)
    np.testing.assert_allclose(table[list(VARIETIES)], _scores(predicted))
    read = metrics.read_predictions(tmp_path / "p" / "cnn_random.csv")
    assert (read.paths, read.classes) == (written.paths, VARIETIES)
    for name in ("labels", "predicted", "scores"):
        np.testing.assert_allclose(getattr(read, name), getattr(written, name))


@pytest.mark.parametrize("text", ["", "path,label\n", "path,label,predicted,Arborio\na,Rye,Arborio,1\n"])
def test_a_foreign_predictions_file_is_one_line(tmp_path, text: str) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(RiceError, match=r"p\.csv: not a predictions file"):
        metrics.read_predictions(tmp_path / "p.csv")


@pytest.mark.parametrize("scores", [np.ones((20, 5)), np.full((20, 5), np.nan), np.full((19, 5), 0.2)])
def test_scores_that_are_no_probabilities_are_not_written(tmp_path, scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="scores"):
        metrics.write_predictions(tmp_path / "p.csv", _examples(20), scores)
    assert not list(tmp_path.iterdir())
