"""The head in closed form: scikit-learn's logits, on either part, for two classes as for more."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from rice_lib.backends.grain_features import FEATURES
from rice_lib.common.errors import RiceError
from rice_lib.common.parameters import ArchitectureParams, FinetuneParams
from rice_lib.data.synthetic import VARIETIES
from rice_lib.models import head
from rice_lib.models.metrics import mcnemar
from rice_lib.models.vit import SHIPPED, create_model

WIDTH = 16


def small_model(names=VARIETIES):
    shape = ArchitectureParams(hidden_size=WIDTH, layers=1, heads=2)
    return create_model(FinetuneParams(model="scratch", architecture=shape, grain_features=True), names)


def classes(count: int, each: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors as a head reads, about one mean a class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(count), each)
    values = rng.normal(0, 0.4, (count, WIDTH + FEATURES))[labels] + rng.normal(3, 1, (len(labels), WIDTH + FEATURES))
    return values.astype(np.float32), labels


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("part", head.PARTS)
def test_the_head_gives_what_the_discriminant_gives(count, part):
    model, (values, labels) = small_model([f"class {n}" for n in range(count)]), classes(count)
    temperature = head.fit_head(model, values, labels, part)
    with torch.inference_mode():
        found = softmax(temperature * model.classifier(torch.from_numpy(values)).numpy(), axis=1)
    expected = head.discriminant(part).fit(values, labels).predict_proba(values)
    assert found == pytest.approx(expected, abs=1e-4)
    assert (found.argmax(axis=1) == labels).mean() > 0.6


def test_what_the_head_does_not_read_changes_nothing():
    model, (values, labels) = small_model(), classes(5)
    head.fit_head(model, values, labels, "grain features")
    other = values.copy()
    other[:, :WIDTH] = 1e3
    with torch.inference_mode():
        assert torch.equal(*(model.classifier(torch.from_numpy(of)) for of in (values, other)))


def test_one_model_is_better_beyond_chance_or_not():
    labels = np.zeros(40, int)
    weak, strong = (np.repeat([0, 1], [right, 40 - right]) for right in (30, 33))
    assert not head.beyond_chance(mcnemar(labels, weak, strong))
    assert head.beyond_chance(mcnemar(labels, weak, labels))
    assert not head.beyond_chance(mcnemar(labels, labels, weak))


def test_two_checkpoints_change_places(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    head.swap(tmp_path / "a", tmp_path / "b")
    assert [(tmp_path / name / "file").read_text() for name in "ab"] == ["b", "a"]
    assert len(list(tmp_path.iterdir())) == 2


def test_shipped_weights_that_are_missing_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("RICE_ROOT", str(tmp_path))
    with pytest.raises(RiceError, match=f"missing from the checkout; get it back with: git checkout {SHIPPED}"):
        create_model(FinetuneParams(model="shipped"), VARIETIES)


def test_the_shipped_weights_begin_a_model_of_other_classes(tmp_path, monkeypatch):
    shape = ArchitectureParams(hidden_size=WIDTH, layers=1, heads=2)
    shipped = create_model(FinetuneParams(model="scratch", architecture=shape, aligned_frame=[48, 128]), VARIETIES)
    shipped.save_pretrained(tmp_path / SHIPPED)
    monkeypatch.setattr("rice_lib.models.vit.find_root", lambda: tmp_path)
    model = create_model(FinetuneParams(model="shipped", grain_features=True), ["Basmati 370", "Riz rond"])
    assert model.config.aligned_frame == [48, 128]
    assert list(model.config.id2label.values()) == ["Basmati 370", "Riz rond"]
    ours, theirs = (dict(of.vit.named_parameters()) for of in (model, shipped))
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    with pytest.raises(RiceError, match="brings its aligned_frame"):
        create_model(FinetuneParams(model="shipped", foreground_patches=48), VARIETIES)
