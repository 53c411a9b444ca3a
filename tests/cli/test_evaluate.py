"""The statistics against textbook values and brute force; predictions files; the command."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, recall_score

from rice_lib.common.classes import VARIETIES
from rice_lib.common.errors import RiceError
from rice_lib.contract.decision import APPEARANCE, Cluster, Decision, RejectionRule


@pytest.fixture
def told() -> tuple[np.ndarray, np.ndarray]:
    """1,000 labels and predictions, about 30 of them wrong."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 1000)
    predicted = labels.copy()
    wrong = rng.choice(1000, 40, replace=False)
    predicted[wrong] = rng.integers(0, 5, 40)
    return labels, predicted


def _examples(n: int) -> SimpleNamespace:
    labels = np.arange(n) % 5
    return SimpleNamespace(paths=[f"{VARIETIES[k]}/grain, ({i}).jpg" for i, k in enumerate(labels)], labels=labels)


def _scores(predicted: np.ndarray) -> np.ndarray:
    scores = np.full((len(predicted), 5), 0.025)
    scores[np.arange(len(predicted)), predicted] = 0.9
    return scores


def test_wilson_is_the_textbooks() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    assert evaluate.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert evaluate.wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert evaluate.wilson(0, 0) == (0, 1)


def test_point_values_are_scikit_learns(told: tuple[np.ndarray, np.ndarray]) -> None:
    metrics = evaluate.classification_metrics(*told, seed=83)
    f1, recall = f1_score(*told, average=None), recall_score(*told, average=None)
    assert metrics["accuracy"].value == pytest.approx((told[0] == told[1]).mean())
    assert metrics["macro_f1"].value == pytest.approx(f1.mean())
    assert [metrics[f"f1/{name}"].value for name in VARIETIES] == pytest.approx(list(f1))
    assert [metrics[f"recall/{name}"].value for name in VARIETIES] == pytest.approx(list(recall))
    assert metrics["errors"].value == (told[0] != told[1]).sum()
    assert metrics["accuracy"].n == metrics["macro_f1"].n == 1000


def test_multinomial_bootstrap_is_the_bootstrap_over_images(told: tuple[np.ndarray, np.ndarray]) -> None:
    labels, predicted = told
    rng = np.random.default_rng(5)
    rows = rng.integers(0, 1000, (2000, 1000))
    true, told_so = labels[rows], predicted[rows]
    hits, cases = (
        np.stack([count(k) for k in range(5)])
        for count in (
            lambda k: ((true == k) & (told_so == k)).sum(axis=1),
            lambda k: (true == k).sum(axis=1) + (told_so == k).sum(axis=1),
        )
    )
    values = (2 * hits / cases).mean(axis=0)
    metric = evaluate.classification_metrics(labels, predicted, seed=83)["macro_f1"]
    assert (metric.low, metric.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.002)
    assert metric == evaluate.classification_metrics(labels, predicted, seed=83)["macro_f1"]


def test_intervals_of_the_full_test_split_are_quick() -> None:
    labels = np.arange(15_000) % 5
    predicted = np.where(np.arange(15_000) < 20, (labels + 1) % 5, labels)
    start = time.perf_counter()
    evaluate.classification_metrics(labels, predicted, seed=1)
    assert time.perf_counter() - start < 1


def test_no_error_still_has_an_interval() -> None:
    labels = np.arange(100) % 5
    metrics = evaluate.classification_metrics(labels, labels, seed=1)
    for name in ("accuracy", "macro_f1", "f1/Jasmine", "recall/Jasmine"):
        assert metrics[name].value == metrics[name].high == 1
        assert 0.8 < metrics[name].low < 0.97


def test_an_absent_variety_is_not_measured_and_not_in_the_mean() -> None:
    labels = np.arange(80) % 4
    metrics = evaluate.classification_metrics(labels, labels, seed=1)
    assert metrics["recall/Karacadag"].value is None
    assert "Karacadag" in metrics["recall/Karacadag"].how
    assert metrics["f1/Karacadag"].value is None
    assert metrics["macro_f1"].value == 1
    told_once = np.where(np.arange(80) == 0, 4, labels)
    assert evaluate.classification_metrics(labels, told_once, seed=1)["f1/Karacadag"].value == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_every_interval_holds_its_value(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = np.array(pairs).T
    for name, metric in evaluate.classification_metrics(labels, predicted, seed=3).items():
        if metric.value is not None and name not in ("errors", "macro_f1"):
            assert 0 <= metric.low <= metric.value <= metric.high <= 1, name


@pytest.mark.parametrize(("labels", "predicted"), [([], []), ([1, 2], [1])])
def test_nothing_to_measure(labels: list[int], predicted: list[int]) -> None:
    with pytest.raises(ValueError, match="labels and"):
        evaluate.classification_metrics(np.array(labels), np.array(predicted), seed=1)


def test_mcnemar_is_the_exact_binomial() -> None:
    labels = np.zeros(100, int)
    a, b = labels.copy(), labels.copy()
    a[:9] = 1  # 8 of them wrong in a alone
    b[8:11] = 1  # 2 of them wrong in b alone
    result = evaluate.mcnemar(labels, a, b)
    assert (result.only_a_wrong, result.only_b_wrong) == (8, 2)
    assert result.p_value == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert evaluate.mcnemar(labels, a, a).p_value == 1


def test_predictions_file_returns_what_was_written(tmp_path) -> None:
    examples, predicted = _examples(20), (np.arange(20) + (np.arange(20) == 7)) % 5
    written = evaluate.write_predictions(tmp_path / "p" / "cnn_random.csv", examples, _scores(predicted))
    read = evaluate.read_predictions(tmp_path / "p" / "cnn_random.csv")
    assert read.paths == written.paths == examples.paths
    np.testing.assert_array_equal(read.labels, examples.labels)
    np.testing.assert_array_equal(read.predicted, predicted)
    np.testing.assert_allclose(read.scores, _scores(predicted))


@pytest.mark.parametrize("scores", [np.ones((20, 5)), np.full((20, 5), np.nan), np.full((19, 5), 0.2)])
def test_scores_that_are_no_probabilities_are_not_written(tmp_path, scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="scores"):
        evaluate.write_predictions(tmp_path / "p.csv", _examples(20), scores)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "path,label\n",
        "path,label,predicted,Arborio,Basmati,Ipsala,Jasmine,Karacadag\na,Rye,Arborio,1,0,0,0,0\n",
    ],
)
def test_a_foreign_predictions_file_is_told_in_a_line(tmp_path, text: str) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(RiceError, match=r"p\.csv: not a predictions file"):
        evaluate.read_predictions(tmp_path / "p.csv")
    with pytest.raises(RiceError, match="no such predictions file"):
        evaluate.read_predictions(tmp_path / "q.csv")


def test_compare_matches_images_by_path() -> None:
    labels = np.arange(10) % 5
    a = evaluate.Predictions([str(i) for i in range(10)], labels, labels, _scores(labels))
    order = np.arange(10)[::-1]
    b = evaluate.Predictions([a.paths[i] for i in order], labels[order], labels[order], a.scores)
    assert evaluate.compare(a, b) == evaluate.McNemar(0, 0, 1.0)
    with pytest.raises(RiceError, match="different images"):
        evaluate.compare(a, evaluate.Predictions(a.paths[1:], labels[1:], labels[1:], a.scores[1:]))


class _Predictor:
    """Tells the variety that the first pixel's red names; its labels come in another order."""

    labels = tuple(reversed(VARIETIES))
    name = "fake"
    decision: Decision | None = None

    def __enter__(self) -> "_Predictor":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        return 10 * np.eye(5, dtype=np.float32)[4 - pixels[:, 0, 0, 0]]


@pytest.fixture
def command(monkeypatch):
    """The command on 21 images of 4 x 4 pixels, the first of them told wrongly."""
    from rice_lib.backends import predictor as predictors
    from rice_lib.data import loading

    labels = np.arange(21) % 5
    pixels = np.zeros((21, 4, 4, 3), np.uint8)
    pixels[:, 0, 0, 0] = np.where(np.arange(21) == 0, 3, labels)
    examples = loading.Examples(pixels, np.arange(21), labels, [f"{i}.jpg" for i in range(21)])
    monkeypatch.setattr(loading, "open_examples", lambda paths, scheme, part: examples)
    monkeypatch.setattr(predictors, "open_predictor", lambda spec: _Predictor())
    return evaluate.main


def test_command_prints_a_table_and_writes_json(command, capsys, tmp_path) -> None:
    output, predictions = tmp_path / "f.json", tmp_path / "p.csv"
    arguments = ["--model", "m", "--profile", "tiny", "--batch-size", "4"]
    assert command([*arguments, "--output", str(output), "--predictions", str(predictions)]) == 0
    printed = capsys.readouterr().out
    assert "accuracy            0.95238" in printed
    assert "split test" in printed
    assert "ece  " in printed
    assert "the model carries no rule of refusal" in printed
    found = json.loads(output.read_text())
    assert found["metrics"]["errors"]["value"] == 1
    assert found["wrong"] == [
        {
            "path": "0.jpg",
            "label": "Arborio",
            "predicted": "Jasmine",
            "confidence": pytest.approx(1, abs=1e-3),
        }
    ]
    assert np.array(found["confusion"]["counts"])[0, 3] == 1
    assert evaluate.read_predictions(predictions).predicted[0] == 3


def test_command_compares_two_models_on_the_same_images(command, capsys, tmp_path, monkeypatch) -> None:
    from rice_lib.backends import predictor as predictors

    class Other(_Predictor):
        """Wrong on all of Basmati."""

        def logits(self, pixels: np.ndarray) -> np.ndarray:
            return super().logits(np.where(pixels == 1, 2, pixels))

    monkeypatch.setattr(predictors, "open_predictor", lambda spec: Other() if spec == "other" else _Predictor())
    output = tmp_path / "f.json"
    assert command(["--model", "m", "--against", "other", "--profile", "tiny", "--output", str(output)]) == 0
    against = json.loads(output.read_text())["against"]
    # both are wrong on image 0; the other on Basmati's four besides
    assert (against["errors"], against["only_a_wrong"], against["only_b_wrong"]) == (5, 0, 4)
    assert against["p_value"] == pytest.approx(2 / 2**4)
    assert "only the other on 4; McNemar's exact p = 0.125" in capsys.readouterr().out


def test_command_applies_the_models_decision(command, capsys, tmp_path, monkeypatch) -> None:
    # the rule takes the logits in the model's own order, and 4 x 4 pixels hold no grain
    cluster = Cluster(np.zeros(len(APPEARANCE)), np.eye(len(APPEARANCE)))
    limits = {"area": (0.1, 1.0), "rim": (0.0, 1.0), "objects": (1.0, 1.0), "solidity": (0.0, 1.0), "fill": (0.0, 1.0)}
    decision = Decision(2.0, RejectionRule(limits, [[cluster]] * 5, 1.0))
    monkeypatch.setattr(_Predictor, "decision", decision)
    output = tmp_path / "f.json"
    assert command(["--model", "m", "--profile", "tiny", "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["metrics"]["refused"]["value"] == 1
    calibrated = float(np.exp(5) / (np.exp(5) + 4))  # 10 / 2
    assert found["wrong"][0]["confidence"] == pytest.approx(calibrated, abs=1e-6)
    # 20 of 21 right, all told with that confidence
    assert found["metrics"]["ece"]["value"] == pytest.approx(abs(20 / 21 - calibrated), abs=1e-6)
    assert "refused" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--split", "tset", "known: train, validation, test"), ("--scheme", "group", "known: random, session")],
)
def test_command_refuses_an_unknown_split(option: str, value: str, message: str) -> None:
    with pytest.raises(RiceError, match=message) as caught:
        evaluate.main(["--model", "m.onnx", option, value])
    assert caught.value.status == 2


def test_command_refuses_a_model_of_other_labels(command, monkeypatch) -> None:
    monkeypatch.setattr(_Predictor, "labels", ("cat", "dog"))
    with pytest.raises(RiceError, match="cat, dog"):
        command(["--model", "m", "--profile", "tiny"])


def test_command_tells_an_unknown_model_in_one_line() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "rice_lib.cli.evaluate", "--model", "/nowhere/model.onnx", "--profile", "tiny"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert process.stderr.startswith("error: /nowhere/model.onnx")
