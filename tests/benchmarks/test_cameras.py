"""The script of three kinds of test images and single shifts: what is measured where, and what it leaves."""

from __future__ import annotations

import json
from types import SimpleNamespace

import cameras
import numpy as np
import pytest
from support.data import grain

from rice_lib.contract.decision import Decision
from rice_lib.contract.decode import decode
from rice_lib.contract.features import COLUMN
from rice_lib.data.loading import Examples
from rice_lib.data.synthetic import VARIETIES


class NoLargeGrain:
    """A rejection rule."""

    def reasons(self, logits, features):
        return ["too large" if area > 0.25 else None for area in features[:, COLUMN["area"]]]


class ByBrightness:
    """A model that predicts a class by the brightness of the image alone, with its labels in another order."""

    labels = tuple(reversed(VARIETIES))
    decision = Decision(rejection=NoLargeGrain())

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def logits(self, pixels):
        level = pixels.mean(axis=(1, 2, 3))[:, None]
        return -np.abs(level - np.linspace(10, 60, len(VARIETIES))).astype(np.float32)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    pixels = np.stack([decode(grain(variety, number)) for variety in VARIETIES for number in range(1, 9)])
    labels = np.repeat(np.arange(len(VARIETIES)), 8)
    examples = Examples(pixels, np.arange(len(pixels)), labels, [str(row) for row in range(len(pixels))], VARIETIES)
    monkeypatch.setattr(cameras, "open_part", lambda run, split, part, limit: examples)
    run = SimpleNamespace(params=SimpleNamespace(seed=1))
    monkeypatch.setattr(cameras, "Run", SimpleNamespace(open=lambda profile: run))
    monkeypatch.setattr(cameras, "provenance", lambda run: {"commit": "c"})
    monkeypatch.setattr(cameras, "open_predictor", lambda file, threads: ByBrightness())
    files = tmp_path / "found.json", tmp_path / "slope.svg"
    models = ["--model", "a=x.onnx", "--session-model", "a=y.onnx", "--model", "b=z.onnx"]
    assert cameras.main([*models, "--output", str(files[0]), "--figure", str(files[1])]) == 0
    return json.loads(files[0].read_text()), files[1].read_text(), examples


def test_each_model_is_measured_where_it_was_not_trained(measured):
    found, drawn, examples = measured
    kinds = {}
    for key in found["metrics"]:
        name, kind, _ = key.split("/", 2)
        kinds.setdefault(name, set()).add(kind)
    shifts = {of: {f"{of}, {name}" for name in cameras.SHIFTS} for of in ("random", "session")}
    random, session = {"random", "camera"} | shifts["random"], {"session"} | shifts["session"]
    assert kinds == {
        "ten features": random | session,
        "without size": random | session,
        "a": random | session,
        "b": random,
    }
    assert found["metrics"]["ten features/random/accuracy"]["value"] > 0.9
    assert found["metrics"]["a/random/accuracy"]["n"] == len(examples)
    assert drawn.lstrip().startswith("<?xml")


def test_a_shift_changes_the_images_and_what_is_rejected_is_counted(measured):
    found, _, examples = measured

    def value(kind, key, model="a"):
        return found["metrics"][f"{model}/random{kind}/{key}"]["value"]

    for name, change in cameras.SHIFTS.items():
        changed = cameras.shifted(examples, change)
        assert changed.batch(slice(None)).shape == examples.pixels.shape
        assert not np.array_equal(changed.pixels, examples.pixels), name
        assert np.array_equal(changed.labels, examples.labels)
    smaller, larger = (cameras.shifted(examples, cameras.SHIFTS[f"{f} times the size"]).pixels for f in (0.75, 1.3))
    bright = [(pixels.max(axis=3) > 40).mean() for pixels in (smaller, examples.pixels, larger)]
    assert bright[0] == pytest.approx(0.75**2 * bright[1], rel=0.03)
    assert bright[0] < bright[1] < bright[2]
    assert (
        value(", 0.75 times the size", "rejected") <= value("", "rejected") < value(", 1.3 times the size", "rejected")
    )
    assert value(", light x 0.7", "accuracy") != value("", "accuracy")
    assert "ten features/random/rejected" not in found["metrics"]


def test_labels_of_a_model_are_matched_by_name(measured):
    found, _, examples = measured
    model = ByBrightness()
    names = np.array(model.labels)[model.logits(examples.pixels).argmax(axis=1)]
    correct = (names == np.array(VARIETIES)[examples.labels]).mean()
    assert found["metrics"]["a/random/accuracy"]["value"] == pytest.approx(correct)
