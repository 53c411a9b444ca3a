"""Grain features: what a turn changes, what they read off known grains, and that the graph of an export gives them."""

import cv2
import numpy as np
import pytest
import torch

from rice_lib.backends.grain_features import FEATURES, GrainFeatures
from rice_lib.backends.vit import load_pixel_classifier, normalise
from rice_lib.common.parameters import ArchitectureParams, FinetuneParams
from rice_lib.data import synthetic
from rice_lib.export.onnx import check_parity, export
from rice_lib.models.vit import create_model

LENGTH, WIDTH, ASPECT, AREA = range(4)
LUMA = 28


def features(*images: np.ndarray) -> np.ndarray:
    return GrainFeatures()(normalise(torch.from_numpy(np.stack(images)))).numpy()


def ellipse(length: float = 140, width: float = 50, degrees: float = 20, level: int = 200) -> np.ndarray:
    image = np.zeros((224, 224), np.float32)
    cv2.ellipse(image, ((111.5, 111.5), (length, width), degrees), float(level), -1, cv2.LINE_AA)
    return np.repeat(image.astype(np.uint8)[:, :, None], 3, axis=2)


def grain(variety: str = "Jasmine", number: int = 1) -> np.ndarray:
    return cv2.resize(synthetic.draw(variety, number, 40, 83), (224, 224), interpolation=cv2.INTER_AREA)


def test_sizes_are_those_of_the_grain():
    (found,) = features(ellipse(140, 50))
    assert np.exp(found[[LENGTH, WIDTH]]) * 4 == pytest.approx([141, 51], rel=0.03)  # half axes, of every second pixel
    assert np.exp(found[ASPECT]) == pytest.approx(2.8, rel=0.03)
    assert np.exp(found[AREA]) * 4 == pytest.approx(np.pi / 4 * 141 * 51, rel=0.05)


@pytest.mark.parametrize("variety", ["Arborio", "Basmati", "Jasmine"])
def test_turning_and_mirroring_change_little_of_what_parts_two_varieties(variety):
    image = grain(variety)
    spread = features(*(grain(name, number) for name in synthetic.VARIETIES for number in (1, 2, 3))).std(axis=0)
    turned = [np.rot90(image), image[::-1], image.transpose(1, 0, 2)]
    apart = np.abs(features(image, *turned) - features(image)) / spread
    assert np.median(apart) < 0.02
    assert np.quantile(apart, 0.95) < 0.4


def test_size_and_colour_are_kept():
    small, large, dull = features(ellipse(100, 40), ellipse(120, 48), ellipse(100, 40, level=160))
    assert large[LENGTH] - small[LENGTH] == pytest.approx(np.log(1.2), abs=0.02)
    assert dull[LUMA] - small[LUMA] == pytest.approx(np.log(160 / 200), abs=0.01)


def test_nothing_at_all_has_finite_features():
    assert np.isfinite(features(np.zeros((224, 224, 3), np.uint8), np.full((224, 224, 3), 255, np.uint8))).all()


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("float16", 5e-2)])
@pytest.mark.slow
def test_a_head_that_reads_them_is_saved_loaded_and_exported(tmp_path, precision, tolerance):
    torch.manual_seed(83)
    shape = ArchitectureParams(hidden_size=32, layers=1, heads=2)
    params = FinetuneParams(model="scratch", architecture=shape, aligned_frame=[48, 128], grain_features=True)
    model = create_model(params, synthetic.VARIETIES)
    assert model.classifier.linear.in_features == 32 + FEATURES
    model.classifier.mean.normal_()
    model.save_pretrained(tmp_path / "checkpoint")
    classifier = load_pixel_classifier(tmp_path / "checkpoint")
    pixels = np.stack([grain(name) for name in synthetic.VARIETIES])
    with torch.inference_mode():
        expected = model.eval()(normalise(torch.from_numpy(pixels))).logits
        assert torch.equal(classifier(torch.from_numpy(pixels)), expected)
    file = export(classifier, tmp_path / "model.onnx", precision=precision, labels=synthetic.VARIETIES)
    assert all(found.labels_changed == 0 for found in check_parity(classifier, file, pixels, tolerance))
