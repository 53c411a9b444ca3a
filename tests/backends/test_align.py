"""Alignment: what does not change the frame, that the grain fits, and that nothing at all is no error."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from rice_lib.backends.align import MEAN_LEVEL, GrainAlignment
from rice_lib.backends.vit import PixelClassifier, attended, load_pixel_classifier, normalise
from rice_lib.common.errors import RiceError
from rice_lib.common.parameters import ArchitectureParams, FinetuneParams
from rice_lib.data.synthetic import VARIETIES
from rice_lib.export.onnx import check_parity, export
from rice_lib.models.vit import create_model

HEIGHT, WIDTH = 32, 96
FINE = (48, 144)
"""Frames with more rows are sampled from the image itself."""


def ellipse(major: float = 140, minor: float = 50, degrees: float = 20, place=(112, 112)) -> np.ndarray:
    """A lopsided bright ellipse with a soft outline on black: uint8 `[224, 224, 3]`."""
    mask = np.zeros((896, 896), np.float32)
    centre = (int(place[0] * 4), int(place[1] * 4))
    cv2.ellipse(mask, centre, (int(major * 2), int(minor * 2)), degrees, 0, 360, 1, -1)
    cv2.circle(mask, (centre[0] + int(major * 1.3), centre[1] + int(major * 0.5)), int(minor), 0.7, -1)
    mask = cv2.resize(mask, (224, 224), interpolation=cv2.INTER_AREA)
    return np.rint(mask[:, :, None] * (200, 180, 160)).astype(np.uint8)


def frames(*images: np.ndarray, size: tuple[int, int] = (HEIGHT, WIDTH)) -> torch.Tensor:
    return GrainAlignment(224, *size)(normalise(torch.from_numpy(np.stack(images))))


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean absolute difference in units of the grain's level, whichever way round the grain lies."""
    return min(float((one - turned).abs().mean()) for turned in (other, other.flip(1, 2))) / MEAN_LEVEL


@pytest.mark.parametrize("factor", [0.7, 0.85, 1.2])
@pytest.mark.parametrize("degrees", [0, 33, 90, 170])
def test_scale_rotation_and_place_do_not_change_the_frame(factor, degrees):
    image = ellipse()
    matrix = cv2.getRotationMatrix2D((111.5, 111.5), degrees, factor)
    matrix[:, 2] += (6, -4)
    one, other = frames(image, cv2.warpAffine(image, matrix, (224, 224)))
    assert difference(one, other) < 0.02


def test_colour_light_and_background_do_not_change_the_frame():
    image = ellipse()
    cast = np.rint(image * (0.85, 1.0, 0.78) * 0.7).astype(np.uint8)
    veiled = np.rint(30 + image * (1 - 30 / 255)).astype(np.uint8)
    one, cast_too, veiled_too = frames(image, cast, veiled)
    assert difference(one, cast_too) < 0.01
    assert difference(one, veiled_too) < 0.01


@pytest.mark.parametrize("aspect", [1.25, 2, 3, 4.5, 5.8])
def test_grains_of_every_aspect_fit_and_have_one_area(aspect):
    minor = 190 / aspect
    frame = frames(ellipse(190, minor))[0].mean(0)
    border = torch.cat([frame[[0, -1]].flatten(), frame[:, [0, -1]].flatten()])
    assert (border > 0.5 * MEAN_LEVEL).float().mean() < 0.02
    area = float((frame > 0.5 * MEAN_LEVEL).sum())
    assert area == pytest.approx((0.96 * HEIGHT) ** 2, rel=0.08)
    across, down = ((frame > 0.5 * MEAN_LEVEL).any(axis).sum() for axis in (0, 1))
    assert across > down, "the grain lies level"


def test_a_plain_grain_of_any_colour_becomes_grey_of_the_fixed_level():
    frame = frames(ellipse())[0]
    inside = frame[:, frame.mean(0) > 0.8 * MEAN_LEVEL].mean(1)
    assert float(inside.max() - inside.min()) < 0.01
    assert float(inside.mean()) == pytest.approx(MEAN_LEVEL, rel=0.15)  # the mean counts the soft outline, too


def test_coarse_and_fine_frames_show_the_same_and_coarse_ones_skip_no_pixel():
    image = ellipse()
    coarse, fine = frames(image), frames(image, size=FINE)
    assert difference(coarse, torch.nn.functional.interpolate(fine, (HEIGHT, WIDTH), mode="area")) < 0.02
    noise = np.random.default_rng(0).normal(0, 8, image.shape)
    noisy = np.clip(np.rint(image + noise * (image > 100)), 0, 255).astype(np.uint8)
    coarse_too, fine_too = frames(noisy), frames(noisy, size=FINE)
    assert difference(coarse, coarse_too) < 0.75 * difference(fine, fine_too)


def textured(pixels: int) -> np.ndarray:
    """One grain with a fine texture, photographed so near that the whole scene is `pixels` wide."""
    scene = cv2.resize(ellipse(), (1792, 1792)).astype(np.float32)
    texture = cv2.resize(np.random.default_rng(0).normal(0, 30, (448, 448)).astype(np.float32), (1792, 1792))
    scene = np.clip(scene + (texture * (scene[:, :, 0] > 100))[:, :, None], 0, 255)
    seen = cv2.resize(scene, (pixels, pixels), interpolation=cv2.INTER_AREA)
    edge = max(0, (224 - pixels) // 2)
    seen = cv2.copyMakeBorder(seen, edge, edge, edge, edge, cv2.BORDER_CONSTANT)
    cut = (len(seen) - 224) // 2
    return np.rint(seen[cut : cut + 224, cut : cut + 224]).astype(np.uint8)


def test_a_nearer_camera_gives_a_coarse_frame_hardly_sharper():
    far, near = (frame.mean(0)[10:22, 30:66] for frame in frames(textured(160), textured(280)))
    sharpness = [float((middle[1:] - middle[:-1]).std()) for middle in (far, near)]
    assert sharpness[1] < 1.5 * sharpness[0]  # 1.6 with one sample a pixel, 1.4 with four


def test_black_white_and_noise_give_finite_frames():
    black, white = np.zeros((224, 224, 3), np.uint8), np.full((224, 224, 3), 255, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    result = frames(black, white, noise)
    assert result.shape == (3, 3, HEIGHT, WIDTH)
    assert torch.isfinite(result).all()
    assert float(result[0].abs().max()) < 1e-6


def aligned_model(**changes):
    torch.manual_seed(83)
    params = {"architecture": ArchitectureParams(hidden_size=32, layers=2, heads=2), "aligned_frame": [HEIGHT, WIDTH]}
    model = create_model(FinetuneParams(model="scratch", **{**params, **changes}), VARIETIES)
    with torch.no_grad():  # transformers' tiny initial weights would give every image the same logits
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model.eval()


def grains() -> np.ndarray:
    return np.stack([ellipse(), ellipse(180, 45, 100, (110, 116)), ellipse(100, 70, 150, (118, 108))])


def test_an_aligned_model_takes_the_dense_weights_and_sees_the_frame_alone():
    model = aligned_model()
    model.load_state_dict(aligned_model(aligned_frame=None).state_dict())
    images = grains()
    tokens = model.vit.embeddings(normalise(torch.from_numpy(images)))
    assert tokens.shape == (3, 1 + HEIGHT * WIDTH // 256, 32)
    classifier = PixelClassifier(model)
    shifted = np.rint(np.roll(images, (8, -12), axis=(1, 2)) * (0.8, 0.7, 0.6)).astype(np.uint8)
    with torch.inference_mode():
        logits, after = (classifier(torch.from_numpy(pixels)) for pixels in (images, shifted))
    spread = float(logits.std(0).mean())
    assert float((logits - after).abs().max()) < 0.2 * spread


STEM = ArchitectureParams(hidden_size=32, layers=2, heads=2, stem_channels=4, stem_depth=2)
FORMS = pytest.mark.parametrize("changes", [{}, {"architecture": STEM}], ids=["patches", "stem"])


@FORMS
def test_the_alignment_is_exported_with_the_model(tmp_path, changes):
    classifier = PixelClassifier(aligned_model(**changes)).eval()
    path = export(classifier, tmp_path / "model.onnx", labels=VARIETIES)
    assert check_parity(classifier, path, np.concatenate([grains()] * 4), tolerance=1e-4)


@FORMS
def test_a_saved_checkpoint_comes_back_the_same(tmp_path, changes):
    model = aligned_model(**changes)
    model.save_pretrained(tmp_path)
    images = torch.from_numpy(grains())
    with torch.inference_mode():
        expected, found = PixelClassifier(model)(images), load_pixel_classifier(tmp_path)(images)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"aligned_frame": None}, "wants finetune.aligned_frame"), ({"patch": 4}, "must divide by 8")],
)
def test_a_stem_wants_a_frame_and_patches_of_its_stride(changes, message):
    architecture = STEM.model_copy(update={"patch_size": changes.pop("patch", 16)})
    with pytest.raises(RiceError, match=message):
        aligned_model(architecture=architecture, **changes)


def test_a_frame_and_a_choice_of_patches_exclude_each_other():
    with pytest.raises(RiceError, match="aligned_frame"):
        aligned_model(foreground_patches=20)


def test_what_an_aligned_model_attends_to_is_shown_in_the_middle_twice_as_large():
    shown = attended(grains(), aligned_model().config)
    assert shown.shape == (3, 224, 224, 3)
    frame = shown[:, 80:144, 16:208].copy()
    assert frame.max() > 150
    np.testing.assert_array_equal(frame[:, ::2, ::2], frame[:, 1::2, 1::2])
    shown[:, 80:144, 16:208] = 0
    assert not shown.any()
