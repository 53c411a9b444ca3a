"""Grains are found where they lie, apart and touching, on any plain background, and nothing else is."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.trays import BACKGROUNDS, Setting, Tray, compose, matches, numbered, synthetic_grains

from rice_lib.contract.decode import BadImageError
from rice_lib.tray import find as finding
from rice_lib.tray.background import fit_background
from rice_lib.tray.find import Grain, _smooth, contours, find
from rice_lib.tray.frame import frame, gains
from rice_lib.tray.separate import separate


def ellipse(image: np.ndarray, centre: tuple[float, float], axes: tuple[float, float], angle: float, colour=(220,) * 3):
    """An ellipse of those full axes, its long one `angle` degrees counter-clockwise from the x axis."""
    cv2.ellipse(image, (centre, axes, -angle), colour, -1, cv2.LINE_AA)


@cache
def tray_of(count: int, seed: int = 0, **setting) -> Tray:
    return compose(synthetic_grains(count), Setting(shape=(850, 1150), **setting), seed)


@pytest.mark.parametrize("background", ["dark", "blue", "light"])
@pytest.mark.parametrize("touching", [0.0, 0.6])
def test_all_grains_are_found_and_nothing_else(background, touching):
    tray = tray_of(20, 3, background=background, touching=touching)
    found = find(tray.image)
    assert len(matches(tray.truth, numbered(found.grains, tray.truth.shape))) == len(found.grains) == 20
    assert (found.cut, found.background.darker) == ([], True)


def test_white_paper_is_brighter_than_the_grains():
    tray = tray_of(15, 5, background="paper", shadow=0.1)
    found = find(tray.image)
    assert not found.background.darker
    assert len(matches(tray.truth, numbered(found.grains, tray.truth.shape))) == len(found.grains) == 15


@pytest.mark.parametrize("manner", ["side", "end", "cross"])
def test_grains_that_touch_are_cut_apart_however_they_lie(manner):
    tray = tray_of(18, 7, touching=1.0, manners=(manner,))
    found = find(tray.image)
    # the tray is one where it matters: far fewer objects stand apart
    apart = cv2.connectedComponents((tray.truth > 0).astype(np.uint8))[0] - 1
    assert apart < 11
    assert len(matches(tray.truth, numbered(found.grains, tray.truth.shape))) == 18
    assert len(found.grains) <= 19


def test_outlines_follow_the_grains():
    tray = tray_of(12, 9, background="light", shadow=0.5)
    found = find(tray.image)
    numbers = numbered(found.grains, tray.truth.shape)
    for true, own in matches(tray.truth, numbers).items():
        one, other = tray.truth == true, numbers == own
        assert (one & other).sum() / (one | other).sum() > 0.9


def test_places_sizes_and_angles_are_those_of_the_ellipses():
    image = np.full((700, 900, 3), 18, np.uint8)
    truth = [
        ((200.0, 150.0), (180.0, 60.0), 30.0),
        ((600.0, 200.0), (140.0, 70.0), 100.0),
        ((450.0, 500.0), (200.0, 50.0), 0.0),
    ]
    for centre, axes, angle in truth:
        ellipse(image, centre, axes, angle)
    grains = find(image).grains
    for (centre, axes, angle), grain in zip(truth, grains, strict=True):
        assert np.allclose(grain.centre, centre, atol=0.7)
        assert (grain.length, grain.width) == pytest.approx(axes, abs=2.5)  # OpenCV draws an axis a pixel longer
        assert min(abs(grain.angle - angle), 180 - abs(grain.angle - angle)) < 1


def test_a_pixel_square_has_the_axes_of_its_moments():
    square = np.int32([[10, 20], [19, 20], [19, 29], [10, 29]])
    grain = Grain.of(square)
    assert grain.centre == (14.5, 24.5)
    assert grain.area == 100
    # second moment of a side of 10 is 100 / 12; an ellipse of axis a has a^2 / 16
    assert grain.length == pytest.approx(np.sqrt(16 * 100 / 12))


def test_what_the_border_cuts_is_counted_apart():
    image = np.full((500, 700, 3), 20, np.uint8)
    for centre in ((0.0, 250.0), (350.0, 499.0), (350.0, 200.0), (699.0, 60.0)):
        ellipse(image, centre, (150.0, 60.0), 20)
    found = find(image)
    assert (len(found.grains), len(found.cut)) == (1, 3)
    assert np.allclose(found.grains[0].centre, (350, 200), atol=0.7)


def test_a_grain_that_touches_one_at_the_border_is_kept():
    image = np.full((500, 700, 3), 20, np.uint8)
    ellipse(image, (60.0, 250.0), (150.0, 60.0), 0)
    ellipse(image, (190.0, 280.0), (150.0, 60.0), 60)
    found = find(image)
    assert (len(found.grains), len(found.cut)) == (1, 1)


def test_specks_are_no_grains():
    image = np.full((500, 700, 3), 20, np.uint8)
    for x in (110.0, 350.0, 590.0):
        for y in (200.0, 400.0):
            ellipse(image, (x, y), (150.0, 60.0), 20)
    for x in range(50, 650, 40):
        ellipse(image, (float(x), 40.0), (12.0, 10.0), 0)
    assert len(find(image).grains) == 6


def test_shadows_on_a_light_background_are_not_taken_for_grain():
    image = np.full((600, 800, 3), 165, np.float32)
    shadow = np.zeros((600, 800), np.uint8)
    cv2.ellipse(shadow, ((430.0, 330.0), (190.0, 100.0), 0), 255, -1)
    image *= 1 - 0.5 * cv2.GaussianBlur(shadow, (0, 0), 9)[..., None].astype(np.float32) / 255
    image = image.astype(np.uint8)
    ellipse(image, (400.0, 300.0), (180.0, 80.0), 0, (232, 232, 230))
    found = find(image)
    (grain,) = found.grains
    assert found.background.darker
    assert (grain.length, grain.width) == pytest.approx((180, 80), abs=4)


def test_uneven_light_is_part_of_the_background():
    x = np.linspace(0.35, 1.0, 900)[None, :, None]
    image = (np.full((600, 900, 3), 150.0) * x).astype(np.uint8)
    for left in (100.0, 450.0, 800.0):
        shine = x[0, int(left), 0]
        ellipse(image, (left, 300.0), (60.0, 150.0), 0, tuple(int(225 * shine) for _ in range(3)))
    assert len(find(image).grains) == 3


def test_grains_are_numbered_in_reading_order():
    image = np.full((600, 900, 3), 20, np.uint8)
    for y in (150.0, 420.0):
        for x in (150.0, 450.0, 750.0):
            ellipse(image, (x, y), (120.0, 50.0), 15)
    centres = [tuple(round(c / 10) * 10 for c in grain.centre) for grain in find(image).grains]
    assert centres == [(x, y) for y in (150, 420) for x in (150, 450, 750)]


def test_a_single_grain_is_never_cut():
    grains = synthetic_grains(60, seed=4)
    uncut = 0
    for image, _ in grains:
        solid = (image.max(axis=2) > 60).astype(np.uint8)
        uncut += len(separate(max(contours(solid), key=cv2.contourArea))) == 1
    assert uncut == 60


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 180), st.floats(20, 90), st.floats(50, 95))
def test_two_crossing_ellipses_are_two(angle, lean, apart):
    solid = np.zeros((500, 500), np.uint8)
    turn = np.radians(angle)
    one = (250.0, 250.0)
    other = (250 + apart * np.cos(turn + np.pi / 2), 250 + apart * np.sin(turn + np.pi / 2))
    cv2.ellipse(solid, (one, (200, 56), angle), 1, -1)
    # the tip of the second lies against the flank of the first
    reach = 28 + 90 * np.sin(np.radians(lean)) - 4
    other = (250 + reach * np.cos(turn + np.pi / 2), 250 + reach * np.sin(turn + np.pi / 2))
    cv2.ellipse(solid, (other, (180, 56), angle + lean), 1, -1)
    parts = separate(contours(solid)[0])
    assert len(parts) == 2
    areas = sorted(cv2.contourArea(part) for part in parts)
    assert areas == pytest.approx(sorted([np.pi / 4 * 200 * 56, np.pi / 4 * 180 * 56]), rel=0.15)


@pytest.mark.parametrize(
    ("setting", "plain"),
    [
        ({"background": "cloth"}, False),
        ({"background": "cloth", "touching": 0.5}, False),
        ({"background": "metal"}, False),
        ({"background": "metal", "touching": 0.5}, False),
        ({"background": "light", "uneven": 0.6}, True),
        ({"background": "dark", "card": 60}, True),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_grains_are_found_on_the_backgrounds_people_have(setting, plain):
    tray = compose(synthetic_grains(12), Setting(shape=(700, 950), **setting), 0)
    found = find(tray.image)
    assert found.background.plain == plain
    assert len(matches(tray.truth, numbered(found.grains, tray.truth.shape))) == len(found.grains) == 12


@pytest.mark.parametrize("background", ["cloth", "metal", "wood"])
def test_marks_of_the_background_are_not_counted(background):
    empty = compose(synthetic_grains(0), Setting(shape=(700, 950), background=background), 0)
    with pytest.raises(BadImageError, match=r"the background is too uneven|no grains on the background"):
        find(empty.image)


def test_wood_whose_lines_are_as_strong_as_grains_is_too_uneven():
    tray = compose(synthetic_grains(12), Setting(shape=(700, 950), background="wood"), 0)
    with pytest.raises(BadImageError, match="the background is too uneven"):
        find(tray.image)


@pytest.mark.parametrize("name", ["dark", "blue", "light", "paper"])
def test_every_plain_background_of_the_composer_is_taken_for_one(name):
    tray = compose(synthetic_grains(3), Setting(background=name, uneven=0.3, shape=(500, 700)), 1)
    background = fit_background(tray.image)
    assert background.plain
    assert background.darker == (np.mean(BACKGROUNDS[name][0]) < 200)


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (np.full((300, 400, 3), 120, np.uint8), "nothing lies on the background"),
        (np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8), "too uneven"),
        (
            np.random.default_rng(0)
            .integers(0, 2, (12, 16, 1))
            .repeat(40, 0)
            .repeat(40, 1)
            .repeat(3, 2)
            .astype(np.uint8)
            * 200,
            "too uneven",
        ),
        (np.full((1, 1, 3), 9, np.uint8), "nothing lies"),
    ],
    ids=["blank", "noise", "checks", "one pixel"],
)
def test_what_is_no_tray_is_one_clear_line(image, why):
    with pytest.raises(BadImageError, match=why) as caught:
        find(image)
    assert "\n" not in str(caught.value)


def test_limits(monkeypatch):
    image = np.full((200, 200, 3), 20, np.uint8)
    for x in range(20, 200, 40):
        for y in range(20, 200, 40):
            ellipse(image, (float(x), float(y)), (22.0, 12.0), 0)
    assert len(find(image).grains) == 25
    monkeypatch.setattr(finding, "MAX_OBJECTS", 24)
    with pytest.raises(BadImageError, match="more than 24 objects"):
        find(image)
    monkeypatch.setattr(finding, "MAX_PIXELS", 39999)
    with pytest.raises(BadImageError, match="too large"):
        find(image)


def test_a_frayed_outline_is_smoothed_and_stays_where_it_was():
    random = np.random.default_rng(0)
    clean = cv2.ellipse(np.zeros((120, 200), np.uint8), (100, 60), (80, 35), 20, 0, 360, 1, -1)
    (rim,) = contours(clean)
    frayed = clean.copy()
    for x, y in rim[random.random(len(rim)) < 0.15]:
        cv2.circle(frayed, (int(x), int(y)), 2, 0, -1)
    outline = max(contours(frayed), key=len)
    smoothed = _smooth(outline)
    mask = cv2.fillPoly(np.zeros_like(clean), [smoothed], 1)
    assert np.sum(mask & clean) / np.sum(mask | clean) > 0.95

    def length(line):
        return cv2.arcLength(line, True)

    # of what the frays add to the clean outline's length, hardly anything is left
    assert length(smoothed) - length(rim) < 0.1 * (length(outline) - length(rim))


@pytest.mark.parametrize(("height", "length"), [(3, 3400), (3, 3200), (3, 3100)])
def test_a_long_straight_line_is_one_object(height, length):
    image = np.full((120, length + 200, 3), 20, np.uint8)
    image[60 : 60 + height, 100 : 100 + length] = 220
    (line,) = find(image).grains
    assert line.length > length


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_drawn_is_a_tray_or_no_tray(seed):
    random = np.random.default_rng(seed)
    for _ in range(20):
        height, width = np.exp(random.uniform(0, 5.5, 2)).astype(int)
        image = np.full((height, width, 3), random.integers(0, 256), np.uint8)
        for _ in range(random.integers(0, 8)):
            one, other = (tuple(map(int, random.integers(-5, (width + 5, height + 5)))) for _ in range(2))
            colour = tuple(map(int, random.integers(0, 256, 3)))
            if random.random() < 0.5:
                cv2.line(image, one, other, colour, int(random.integers(1, 6)))
            else:
                cv2.ellipse(image, (one, (float(width), float(random.integers(1, 40))), 30.0), colour, -1)
        try:
            grains = find(image).grains
        except BadImageError:
            continue
        assert all(frame(image, grain, 1.0).shape == (224, 224, 3) for grain in grains)
        assert np.isfinite(gains(image, grains)).all()
