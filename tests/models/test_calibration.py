"""The temperature on logits with a known one, the rejection rule on generated grains, and the command."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from support import not_grains
from support.models import tiny_checkpoint, tiny_onnx

from rice_lib.backends.open import open_predictor
from rice_lib.cli import calibrate as command
from rice_lib.common.errors import RiceError
from rice_lib.contract.decision import APPEARANCE, Decision, ImageScale, RejectionRule
from rice_lib.contract.features import COLUMN, FEATURES
from rice_lib.contract.prediction import feature_table
from rice_lib.data.loading import Examples
from rice_lib.data.synthetic import VARIETIES, draw
from rice_lib.models import calibration
from rice_lib.models.calibration import (
    calibrate,
    fit_clusters,
    fit_rejection_rule,
    fit_temperature,
    write_decision,
)
from rice_lib.models.metrics import calibration_error


def generated(numbers: range) -> tuple[np.ndarray, np.ndarray]:
    """Generated grains of those numbers, uint8 `[n, 224, 224, 3]`, and their class numbers."""
    images = [
        cv2.resize(draw(v, n, 200, 5), (224, 224), interpolation=cv2.INTER_AREA) for v in VARIETIES for n in numbers
    ]
    return np.stack(images), np.repeat(np.arange(len(VARIETIES)), len(numbers))


def nearest(rule: RejectionRule, features: np.ndarray) -> np.ndarray:
    """Logits of the most lenient model there could be: it always predicts the variety that is nearest."""
    appearance = features[:, [COLUMN[name] for name in APPEARANCE]].astype(float)
    return -np.array([np.min([c.distances(appearance) for c in clusters], axis=0) for clusters in rule.clusters]).T


@pytest.fixture(scope="module")
def rule() -> RejectionRule:
    training, labels = generated(range(1, 61))
    validation, truth = generated(range(61, 111))
    return fit_rejection_rule(
        (feature_table(training), labels),
        (feature_table(validation), np.eye(5, dtype=np.float32)[truth] * 10),
        share=0.01,
    )


def sampled(temperature: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose calibrated probabilities are theirs over `temperature`, and labels drawn by those."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 4, (count, 5)).astype(np.float32)
    chance = softmax(logits / temperature, axis=1).cumsum(axis=1)
    return logits, (rng.random((count, 1)) > chance[:, :-1]).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found_and_calibrates(temperature):
    logits, labels = sampled(temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    assert calibration_error(labels, Decision(found).probabilities(logits)) < 0.01


def test_no_error_at_all_still_has_a_temperature():
    labels = np.arange(500) % 5
    logits = np.eye(5, dtype=np.float32)[labels] * 8
    found = fit_temperature(logits, labels)
    assert calibration.TEMPERATURES[0] * 2 < found < calibration.TEMPERATURES[1] / 2
    # as if one image in n + 2 had been misclassified
    assert 1 - Decision(found).probabilities(logits)[0].max() == pytest.approx(1 / 502, rel=0.01)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.floats(0, 1e4), st.integers(0, 10))
def test_whatever_the_logits_the_temperature_is_within_its_bounds(count, size, seed):
    rng = np.random.default_rng(seed)
    found = fit_temperature((rng.normal(0, 1, (count, 5)) * size).astype(np.float32), rng.integers(0, 5, count))
    assert calibration.TEMPERATURES[0] <= found <= calibration.TEMPERATURES[1]


def test_two_sessions_of_a_variety_are_two_clusters():
    rng = np.random.default_rng(0)
    small, large = rng.normal(0, 0.1, (300, len(APPEARANCE))), rng.normal(3, 0.1, (150, len(APPEARANCE)))
    clusters = fit_clusters(np.concatenate([small, large]), seed=1)
    assert sorted(cluster.mean.mean().round() for cluster in clusters) == [0, 3]
    between = np.full((1, len(APPEARANCE)), 1.5)
    assert min(cluster.distances(between)[0] for cluster in clusters) > 100


def test_distances_are_mahalanobis():
    appearance = np.random.default_rng(0).normal(size=(5000, len(APPEARANCE)))
    (cluster, *others) = fit_clusters(appearance[:150], seed=1)
    assert not others, "too few images for two clusters"
    covariance = np.linalg.inv(cluster.root @ cluster.root.T)
    assert np.trace(covariance) == pytest.approx(np.trace(np.cov(appearance[:150].T, bias=True)), rel=0.01)
    apart = appearance[:3] - cluster.mean
    expected = [row @ np.linalg.inv(covariance) @ row for row in apart]
    np.testing.assert_allclose(cluster.distances(appearance[:3]), expected)


@pytest.mark.parametrize("count", [2, 8])
def test_a_handful_of_images_gives_a_usable_cluster(count):
    appearance = np.random.default_rng(0).normal(size=(count, len(APPEARANCE)))
    (cluster,) = fit_clusters(appearance, seed=1)
    assert np.isfinite(cluster.distances(appearance)).all()


def test_the_share_of_validation_images_that_is_rejected_is_the_one_asked_for():
    features = np.zeros((400, len(FEATURES)), np.float32)
    columns = [COLUMN[name] for name in APPEARANCE]
    features[:, columns] = np.random.default_rng(0).normal(1, 0.1, (400, len(columns)))
    features[:, COLUMN["objects"]], features[:, COLUMN["area"]] = 1, 0.2
    features[:, [COLUMN["solidity"], COLUMN["fill"]]] = 0.95
    labels, logits = np.arange(400) % 2, np.eye(2)[np.arange(400) % 2]
    for share, count in ((0.01, 4), (0.05, 20), (0.0005, 0)):
        rule = fit_rejection_rule((features, labels), (features, logits), share=share)
        assert sum(reason is not None for reason in rule.reasons(logits, features)) == count


def test_generated_grains_are_predicted_and_other_things_rejected(rule):
    """The quick form of the `real` test: rule, grains and other things without any real image."""
    images, truth = generated(range(111, 151))
    features = feature_table(images)
    reasons = rule.reasons(np.eye(5)[truth], features)
    assert sum(reason is not None for reason in reasons) <= 6, "3 % of 200, where 1 % was asked for"
    missed = {}
    for kind in not_grains.KINDS:
        others = feature_table(not_grains.draw(kind, 4, "development", images))
        missed[kind] = sum(reason is None for reason in rule.reasons(nearest(rule, others), others))
    assert sum(missed.values()) <= 0.05 * 4 * len(missed), missed
    assert max(missed.values()) <= 2, missed


@pytest.mark.parametrize(
    ("change", "at_most"),
    [
        (lambda i: cv2.warpAffine(i, cv2.getRotationMatrix2D((111.5, 111.5), 37, 1), (224, 224)), 0.03),
        (lambda i: cv2.warpAffine(i, cv2.getRotationMatrix2D((111.5, 111.5), 0, 0.95), (224, 224)), 0.03),
        (lambda i: (i * 0.95).astype(np.uint8), 0.03),
        (lambda i: cv2.imdecode(cv2.imencode(".jpg", i, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR), 0.03),
    ],
    ids=["rotated", "smaller", "darker", "jpeg 60"],
)
def test_what_another_photograph_of_a_grain_changes_is_let_pass(rule, change, at_most):
    images, truth = generated(range(111, 151))
    reasons = rule.reasons(np.eye(5)[truth], feature_table(np.stack([change(image) for image in images])))
    assert sum(reason is not None for reason in reasons) / len(reasons) <= at_most


def examples_of(images: np.ndarray, labels: np.ndarray) -> Examples:
    paths = [f"{i}.jpg" for i in range(len(images))]
    return Examples(images, np.arange(len(images)), labels, paths, VARIETIES, ImageScale("mm", 0.04))


class Perfect(SimpleNamespace):
    """A model that predicts every generated grain by its place in the file, with its labels in another order."""

    name, labels = "perfect", VARIETIES[::-1]

    def logits(self, pixels):
        found = np.eye(5, dtype=np.float32)[self.classes[self.at : self.at + len(pixels)]] * 9
        self.at += len(pixels)
        return found


def test_calibrate_takes_the_models_own_order_of_labels():
    training, validation = generated(range(1, 21)), generated(range(21, 31))
    model = Perfect(classes=np.tile(4 - validation[1], 2), at=0)
    decision = calibrate(model, examples_of(*training), examples_of(*validation), batch_size=16, seed=1)
    assert decision.temperature < 2
    assert Decision.from_json(decision.to_json()).scale == ImageScale("mm", 0.04)  # what infer --grains cuts at
    assert decision.about == {"training_images": 100, "validation_images": 50, "validation_rejected": 0}
    arborio = feature_table(training[0][:5])
    as_arborio, as_karacadag = (decision.rejection.distances(np.eye(5)[[at] * 5], arborio) for at in (4, 0))
    assert (as_arborio < as_karacadag).all()


def test_nothing_to_calibrate_on_is_one_line():
    images, labels = generated(range(1, 3))
    model = Perfect(classes=labels, at=0)
    all_of, none = examples_of(images, labels), examples_of(images[:0], labels[:0])
    with pytest.raises(RiceError, match="no training image of Karacadag"):
        calibrate(model, examples_of(images[:8], labels[:8]), all_of, 8, 1)
    with pytest.raises(RiceError, match="no validation image"):
        calibrate(model, all_of, none, 8, 1)


def test_a_decision_is_written_into_an_onnx_file_and_nothing_else_of_it_changes(tmp_path, rule):
    model = tmp_path / "model.onnx"
    shutil.copy(tiny_onnx(), model)
    decision = Decision(1.7, rule)
    for _ in range(2):  # the second time it replaces the first
        assert write_decision(model, decision) == model
    before, after = onnx.load(tiny_onnx()), onnx.load(model)
    carried = {entry.key: entry.value for entry in after.metadata_props}
    assert carried.pop("decision") == decision.to_json()
    assert carried == {entry.key: entry.value for entry in before.metadata_props}
    assert after.graph == before.graph
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    with open_predictor(model) as predictor:
        assert predictor.decision.to_json() == decision.to_json()


def test_only_a_checkpoint_or_an_onnx_file_takes_one(tmp_path):
    (tmp_path / "x.plan").touch()
    with pytest.raises(RiceError, match="no checkpoint directory"):
        write_decision(tmp_path / "x.plan", Decision())


def test_the_command_writes_it_beside_the_weights(tmp_path, monkeypatch, capsys):
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint(), checkpoint)
    parts = {"train": generated(range(1, 21)), "validation": generated(range(21, 31))}
    monkeypatch.setattr(command, "open_examples", lambda paths, scheme, part: examples_of(*parts[part]))
    assert command.main([str(checkpoint), "--profile", "tiny"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{checkpoint / 'decision.json'}: temperature ")
    assert "of 50 validation images" in out
    with open_predictor(checkpoint) as predictor:
        assert predictor.decision.rejection is not None
    assert sorted({*checkpoint.iterdir()} - {checkpoint / f.name for f in tiny_checkpoint().iterdir()}) == [
        checkpoint / "decision.json"
    ]
