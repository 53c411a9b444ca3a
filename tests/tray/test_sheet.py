"""The quality sheet of a tray, on trays whose grains are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from support.trays import Setting, compose, grain_of, matches, numbered

from rice_lib.data.synthetic import draw
from rice_lib.tray import sheet
from rice_lib.tray.find import find

PLAIN = np.full((500, 600, 3), 20, np.uint8)
"""A picture for grains that are measured by their outlines alone."""


def basmati(count: int) -> list[np.ndarray]:
    return [draw("Basmati", number + 1, 1000, 83) for number in range(count)]


def cut_off(image: np.ndarray, share: float) -> np.ndarray:
    """Break a grain: only the first `share` of its length is left."""
    rows, columns = np.nonzero(image.max(axis=2) > 60)
    centred = np.stack([columns - columns.mean(), rows - rows.mean()])
    axis = np.linalg.eigh(np.cov(centred))[1][:, 1]
    along = axis @ centred
    beyond = along > along.min() + share * np.ptp(along)
    image = image.copy()
    image[rows[beyond], columns[beyond]] = 0
    return image


def measured(images: list[np.ndarray], **options: float | None) -> tuple[sheet.Sheet, np.ndarray]:
    """The sheet of a tray of those grains, and the number of the image that each found grain shows."""
    tray = compose([(image, number) for number, image in enumerate(images)], Setting("blue", shape=(1300, 1700)), 5)
    found = find(tray.image).grains
    pairs = matches(tray.truth, numbered(found, tray.truth.shape))
    assert len(found) == len(pairs) == len(images)
    shown = np.empty(len(found), int)
    for true, own in pairs.items():
        shown[own - 1] = tray.labels[true - 1]
    return sheet.measure(tray.image, found, options.pop("mm_per_pixel", None), **options), shown


def test_broken_grains_and_head_rice_are_those_laid():
    images = basmati(20)
    broken = set(range(6))
    own, shown = measured([cut_off(image, 0.5) if n in broken else image for n, image in enumerate(images)])
    assert {int(n) for n in shown[own.broken]} == broken
    assert own.shares()["broken"].value == 0.3
    # six halves and fourteen whole grains: 14 / 17 of the mass
    assert own.head_rice.value == pytest.approx(14 / 17, abs=0.04)
    low, high = own.head_rice.interval
    assert low < own.head_rice.value < high
    assert own.shape == "long"


def test_colour_defects_are_those_painted():
    tray = compose([(image, 0) for image in basmati(20)], Setting("blue", shape=(1100, 1500)), 5)
    grains = find(tray.image).grains
    tints = {0: (0.8, 0.7, 0.42), 3: (0.8, 0.7, 0.42), 7: (0.6, 0.36, 0.3), 11: (0.2, 0.2, 0.2), 15: (1.0, 1.0, 1.0)}
    names = {0: "yellow", 3: "yellow", 7: "red", 11: "black", 15: "chalky"}
    image = tray.image.astype(float)
    for number, grain in enumerate(grains):
        mask = np.zeros(image.shape[:2], np.uint8)
        cv2.fillPoly(mask, [grain.outline], 1)
        image[mask > 0] *= tints.get(number, (0.8, 0.8, 0.8))
    own = sheet.measure(image.round().astype(np.uint8), grains, None)
    assert own.no_colours is None
    assert own.colours == tuple(names.get(number, "") for number in range(20))
    assert own.shares()["yellow"].value == 0.1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda image: np.clip(image.astype(float) * 1.5, 0, 255), "overexposed"),
        (lambda image: image * np.array([1.0, 0.8, 0.4]), "a colour of their own"),
    ],
)
def test_colours_are_not_stated_where_the_light_hides_them(change, why):
    image = np.full((500, 600, 3), 20, np.uint8)
    grain = grain_of((150, 70))
    cv2.fillPoly(image, [grain.outline], (215, 215, 215))
    own = sheet.measure(change(image).astype(np.uint8), [grain] * 12, None)
    assert why in own.no_colours
    assert "yellow" not in own.shares()
    assert any(name == "colours" and why in remark for name, _, _, remark in own.rows())
    assert sheet.measure(image, [grain] * 12, None).no_colours is None
    assert "fewer than" in sheet.measure(image, [grain] * 5, None).no_colours


def test_sizes_are_medians_in_millimetres_with_intervals_of_order_statistics():
    grains = [grain_of((100 + n, 40)) for n in range(0, 22, 2)]
    own = sheet.measure(PLAIN, grains, 0.05)
    assert own.unit == "mm"
    assert own.sizes["length"].value == pytest.approx(110.5 * 0.05, abs=0.06)
    # of eleven values the second and the tenth: 98.8 %, where the third and the ninth are 93.5 % (Conover 1999)
    lengths = sorted(grain.length * 0.05 for grain in grains)
    assert own.sizes["length"].interval == (lengths[1], lengths[9])
    assert sheet.measure(PLAIN, grains[:5], None).sizes["length"].interval is None
    assert sheet.measure(PLAIN, grains[:6], None).unit == "px"
    json = own.as_dict()
    assert json["length"]["value"] == pytest.approx(own.sizes["length"].value, rel=1e-3)
    assert json["shape"] == "medium"


def test_the_interval_of_the_median_holds_it_in_95_of_100_samples():
    random = np.random.default_rng(1)
    held = [low <= 0 <= high for low, high in (sheet._median(random.standard_normal(30)).interval for _ in range(2000))]
    assert 0.945 < np.mean(held) < 0.975


@pytest.mark.parametrize(
    ("ratio", "name"), [(3.4, "long"), (3.02, "long"), (2.9, "medium"), (1.99, "medium"), (1.5, "short")]
)
def test_the_class_of_codex_by_ratio_to_one_decimal(ratio, name):
    assert sheet.measure(PLAIN, [grain_of((60 * ratio, 60))] * 6, None).shape == name


def test_another_limit_for_broken_grains():
    grains = [grain_of((150, 40))] * 6 + [grain_of((100, 40))]
    assert sheet.measure(PLAIN, grains, None).broken.sum() == 1
    assert sheet.measure(PLAIN, grains, None, broken_below=0.5).broken.sum() == 0


def test_head_rice_has_no_interval_where_no_grain_is_broken():
    """Drawing the same grains again shows no broken one either, and 100 to 100 % would be a certainty."""
    own = sheet.measure(PLAIN, [grain_of((150, 40))] * 6, None)
    assert (own.head_rice.value, own.head_rice.interval) == (1.0, None)
    assert own.as_dict()["head_rice_by_mass"] == {"value": 1.0, "interval": None}
    assert next(row for row in own.rows() if row[0] == "head rice")[1:3] == ("100.0%", "")
