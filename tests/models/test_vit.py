"""The ViT: the foreground form against the dense one, loading, and what may not happen."""

import numpy as np
import pytest
import torch
from transformers import ViTForImageClassification

from rice_lib.backends import vit
from rice_lib.common.errors import RiceError
from rice_lib.common.parameters import ArchitectureParams, FinetuneParams
from rice_lib.data.synthetic import VARIETIES
from rice_lib.models.vit import create_model

SMALL = ArchitectureParams(hidden_size=16, layers=2, heads=2)


def small_model(**changes):
    torch.manual_seed(83)
    params = FinetuneParams(model="scratch", architecture=SMALL, **changes)
    return create_model(params, VARIETIES).eval()


def grains(count=3, seed=0):
    """Black images with a bright blob each, uint8 [count, 224, 224, 3]."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 224, 224, 3), np.uint8)
    for image in images:
        top, left = rng.integers(40, 100, 2)
        image[top : top + 70, left : left + 40] = rng.integers(150, 250, (70, 40, 3))
    return images


def test_all_patches_give_the_dense_model_whatever_their_order():
    dense, every = small_model(), small_model(foreground_patches=196)
    every.load_state_dict(dense.state_dict())
    pixels = vit.normalise(torch.from_numpy(grains()))
    torch.testing.assert_close(every(pixel_values=pixels).logits, dense(pixel_values=pixels).logits, atol=1e-5, rtol=0)


def test_the_last_layer_of_the_class_token_alone_learns_as_the_complete_layer_does():
    dense, every = small_model(), small_model(foreground_patches=196)
    every.load_state_dict(dense.state_dict())
    pixels, labels = vit.normalise(torch.from_numpy(grains())), torch.tensor([0, 1, 2])
    for model in (dense, every):
        model(pixel_values=pixels, labels=labels).loss.backward()
    learnt = dict(every.named_parameters())
    for name, weight in dense.named_parameters():
        torch.testing.assert_close(learnt[name].grad, weight.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_the_foreground_model_does_not_look_at_what_it_leaves_out():
    model = vit.PixelClassifier(small_model(foreground_patches=40))
    images = grains(1)
    noisy = images.copy()
    noisy[:, 208:, 208:] = 1  # the last patch, brighter than black but far below the grain
    assert not np.array_equal(images, noisy)
    few = vit.PixelClassifier(small_model(foreground_patches=15))
    few.model.load_state_dict(model.model.state_dict())
    torch.testing.assert_close(few(torch.from_numpy(images)), few(torch.from_numpy(noisy)), atol=0, rtol=0)
    assert not torch.equal(model(torch.from_numpy(images)), model(torch.from_numpy(noisy)))


def test_equal_patches_are_taken_in_reading_order():
    patches = torch.full((1, 196, 768), -1.0)
    patches[0, 100] = 0.5
    assert vit.brightest(patches, 4)[0].tolist() == [100, 0, 1, 2]


@pytest.mark.parametrize("side", [14, 28, 56])
def test_brightest_orders_by_the_sum_of_the_bytes(side):
    """196 patches of 16 px, 784 of 8 px, 3,136 of 4 px: some equal, so that their order counts."""
    rng = np.random.default_rng(1)
    count, size = side**2, 3 * (224 // side) ** 2
    values = rng.integers(0, 256, (2, count, size), dtype=np.int64)
    values[:, 50:] //= 8
    values[:, -30:] = values[:, :30]
    chosen = vit.brightest(torch.from_numpy((values - 127.5) / 127.5).float(), 60).numpy()
    for image, picked in zip(values, chosen, strict=True):
        level = np.floor(image.sum(-1) * 48 / size + 0.53)
        expected = np.lexsort((np.arange(count), -level))[:60]
        assert picked.tolist() == expected.tolist()


def test_normalise_is_the_reference_preprocessing():
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).reshape(1, 1, 1, 3).expand(1, 2, 2, 3)
    assert vit.normalise(images).shape == (1, 3, 2, 2)
    np.testing.assert_allclose(vit.normalise(images)[0, :, 0, 0], [-1, (128 / 255 - 0.5) / 0.5, 1], atol=1e-6)


def test_a_checkpoint_comes_back_and_is_a_plain_transformers_checkpoint(tmp_path):
    model = small_model(foreground_patches=40)
    model.save_pretrained(tmp_path)
    classifier = vit.load_pixel_classifier(tmp_path)
    assert classifier.labels == VARIETIES
    assert classifier.model.config.foreground_patches == 40
    images = torch.from_numpy(grains())
    torch.testing.assert_close(classifier(images), vit.PixelClassifier(model)(images), atol=0, rtol=0)
    plain = ViTForImageClassification.from_pretrained(tmp_path)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(plain.state_dict()[name], weight, atol=0, rtol=0)


def test_pretrained_from_a_directory_gets_a_new_head_and_keeps_the_body(tmp_path):
    body = small_model()
    body.save_pretrained(tmp_path)
    model = create_model(FinetuneParams(model=str(tmp_path), foreground_patches=30), ("one", "two"))
    assert model.classifier.weight.shape == (2, 16)
    assert model.vit.embeddings.keep == 30
    torch.testing.assert_close(model.vit.layers[1].mlp.fc1.weight, body.vit.layers[1].mlp.fc1.weight, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (FinetuneParams(model="/no/such/dir"), "finetune.model=/no/such/dir: cannot be loaded"),
        (FinetuneParams(model="scratch"), "finetune.architecture: needed"),
        (FinetuneParams(model="/x", architecture=SMALL), "finetune.architecture: only for"),
        (
            FinetuneParams(model="scratch", architecture=ArchitectureParams(hidden_size=18, heads=3)),
            "hidden_size must divide",
        ),
    ],
)
def test_what_cannot_be_made_is_one_line(params, message):
    with pytest.raises(RiceError, match=message) as raised:
        create_model(params, VARIETIES)
    assert "\n" not in str(raised.value)


def test_a_folder_without_a_checkpoint_is_one_line(tmp_path):
    with pytest.raises(RiceError, match="no checkpoint here"):
        vit.load_checkpoint(tmp_path)


def test_a_model_from_random_weights_begins_with_sine_cosine_positions():
    params = FinetuneParams(model="scratch", architecture=ArchitectureParams(hidden_size=48, layers=1, heads=4))
    positions = create_model(params, VARIETIES).vit.embeddings.position_embeddings[0, 1:].detach() / 0.2
    across, down = torch.arange(14).repeat(14), torch.arange(14).repeat_interleave(14)
    frequency = 10_000.0 ** -(torch.arange(12) / 12)
    angles = [axis[:, None] * frequency for axis in (across, down)]
    expected = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    torch.testing.assert_close(positions, expected)


def test_dimming_leaves_the_attended_patches_as_they_are():
    images = grains(2)
    dimmed = vit.dim_unattended(images, 1, 16)
    same = (dimmed == images).all(-1).reshape(2, 14, 16, 14, 16).all((2, 4))
    assert same.sum((1, 2)).tolist() == [1, 1]
    assert np.array_equal(vit.dim_unattended(images, None, 16), images)
