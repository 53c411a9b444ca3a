"""The baselines: thinning, features by row, the classifier against scikit-learn, the frozen CNN's weights."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy.special import softmax
from sklearn.datasets import load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rice_lib.common.errors import RiceError
from rice_lib.data.loading import Examples
from rice_lib.data.synthetic import VARIETIES
from rice_lib.models import baseline, embedding


def _examples(rows: np.ndarray, labels: np.ndarray | None = None) -> Examples:
    """Images of one pixel that hold their own row number."""
    pixels = np.repeat(np.arange(200, dtype=np.uint8), 3).reshape(200, 1, 1, 3)
    labels = rows % 5 if labels is None else labels
    return Examples(pixels, rows, labels, [f"{row}.jpg" for row in rows], VARIETIES)


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """300 points of six features, five overlapping classes; the last feature never varies."""
    rng = np.random.default_rng(7)
    labels = np.arange(300) % 5
    features = rng.normal(labels[:, None] * [1, -1, 0.5, 0, 2, 0], 1).astype(np.float32) * 50
    features[:, 5] = 3
    return features, labels


def test_thin_keeps_the_shares_and_the_order() -> None:
    labels = np.repeat([0, 1, 2, 3, 4], [80, 40, 40, 20, 20])
    examples = _examples(np.arange(200), labels)
    thinned = baseline.thin(examples, 50, seed=1)
    assert np.bincount(thinned.labels).tolist() == [20, 10, 10, 5, 5]
    assert (np.diff(thinned.rows) > 0).all()
    assert thinned.paths == [f"{row}.jpg" for row in thinned.rows]
    np.testing.assert_array_equal(thinned.rows, baseline.thin(examples, 50, seed=1).rows)
    assert not np.array_equal(thinned.rows, baseline.thin(examples, 50, seed=2).rows)


@pytest.mark.parametrize("limit", [None, 200, 999])
def test_thin_takes_all_where_it_may(limit: int | None) -> None:
    examples = _examples(np.arange(200))
    assert baseline.thin(examples, limit, seed=1) is examples


def test_extract_computes_each_image_once_and_gives_it_back_by_row() -> None:
    parts = [_examples(np.array(rows)) for rows in ([9, 3, 50], [7, 8], [3, 8, 120], [9])]
    seen: list[int] = []

    def compute(pixels: np.ndarray) -> np.ndarray:
        seen.extend(pixels[:, 0, 0, 0].tolist())
        return pixels[:, 0, 0, :2].astype(np.float32)

    features = baseline.extract(parts, compute, batch_size=4, title="test")
    assert seen == [3, 7, 8, 9, 50, 120]
    assert features.loc[parts[0].rows].values.tolist() == [[9, 9], [3, 3], [50, 50]]


@pytest.mark.parametrize("classes", [2, 5])
def test_it_gives_scikit_learns_scores_in_double_precision(blobs, classes) -> None:
    features, labels = blobs[0], blobs[1] % classes
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, max_iter=baseline.ITERATIONS))
    expected = pipeline.fit(features.astype(np.float64), labels).predict_proba(features.astype(np.float64))
    classifier = baseline.linear_classifier(0.5).fit(features, labels)
    np.testing.assert_allclose(classifier.predict_proba(features), expected, atol=1e-9)
    weights, bias = baseline.weights(classifier[-1])
    assert weights.shape == (classes, 6)
    logits = classifier[-2].transform(features.astype(np.float64)) @ weights.T + bias
    np.testing.assert_allclose(softmax(logits, axis=1), expected, atol=1e-9)


def test_features_are_classified() -> None:
    train, test = baseline.thin(_examples(np.arange(150)), 60, seed=1), _examples(np.arange(150, 200))

    def compute(pixels: np.ndarray) -> np.ndarray:
        return np.eye(5, dtype=np.float32)[pixels[:, 0, 0, 0] % 5]

    features = baseline.extract([train, test], compute, 32, "test")
    classifier = baseline.linear_classifier(1.0).fit(features.loc[train.rows], train.labels)
    assert (classifier.predict(features.loc[test.rows]) == test.labels).all()


def test_match_tensors_goes_by_order_kind_and_shape() -> None:
    wanted = {"stem.weight": torch.zeros(3, 2), "bn.bias": torch.zeros(3)}
    found = {"_conv.weight": torch.ones(3, 2), "_norm.bias": torch.ones(3)}
    assert embedding.match_tensors(wanted, found)["bn.bias"] is found["_norm.bias"]
    with pytest.raises(RiceError, match=r"None for \('bias', 3\)"):
        embedding.match_tensors(wanted, {"_conv.weight": torch.ones(3, 2)})
    with pytest.raises(RiceError, match=r"\('weight', 3\) for \('bias', 3\)"):
        embedding.match_tensors(wanted, {"_conv.weight": torch.ones(3, 2), "_norm.weight": torch.ones(3)})
    with pytest.raises(RiceError, match=r"\('weight', 3, 3\) for \('weight', 3, 2\)"):
        embedding.match_tensors(wanted, {**found, "_conv.weight": torch.ones(3, 3)})


def test_packaged_weights_are_in_their_places() -> None:
    """scikit-learn's two sample photographs are what ImageNet's classes say: a palace, a daisy."""
    network = embedding.packaged_network().eval()
    for pixels, expected in zip(load_sample_images().images, (698, 985), strict=True):
        image = ImageOps.fit(Image.fromarray(pixels), (224, 224))
        x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.inference_mode():
            assert int(network(x).argmax()) == expected


def test_a_model_that_cannot_be_had_is_one_line() -> None:
    with pytest.raises(RiceError, match=r"baseline\.model: resnett18 .*comes with a package"):
        embedding.load_frozen_cnn("resnett18")


def test_frozen_cnn_normalises_inside() -> None:
    model = embedding.load_frozen_cnn(embedding.PACKAGED)
    assert not any(weight.requires_grad for weight in model.parameters())
    seen: list[torch.Tensor] = []
    model.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        features = model(torch.full((2, 224, 224, 3), 255, dtype=torch.uint8))
    assert features.shape == (2, 1280)
    assert seen[0].shape == (2, 3, 224, 224)
    torch.testing.assert_close(seen[0], torch.ones(2, 3, 224, 224))


@pytest.mark.slow
def test_onnxruntime_embeds_as_torch_does() -> None:
    embed, model = embedding.open_embedder(), embedding.load_frozen_cnn(embedding.PACKAGED)
    images = np.random.default_rng(3).integers(0, 256, (5, 224, 224, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
    for n in (1, 3, 5):
        np.testing.assert_allclose(embed(images[:n]), expected[:n], atol=2e-3 * np.abs(expected).max())
