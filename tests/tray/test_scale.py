"""The scale of a tray: given in millimetres, by a coin, or doubted where no variety fits it."""

from __future__ import annotations

import numpy as np
import pytest
from support.trays import grain_of

from rice_lib.contract.decision import ImageScale
from rice_lib.contract.image_file import BadImageError
from rice_lib.data.synthetic import VARIETIES
from rice_lib.tray import scale

AXES = [*scale.FAR.values(), *scale.NEAR.values()]


def test_millimetres_give_the_two_scales_of_the_training_set():
    far, near = scale.known(scale.FAR_MM)
    assert (far.factor, near.factor) == (1.0, pytest.approx(scale.FAR_MM / scale.NEAR_MM))
    assert set(far.varieties) | set(near.varieties) == set(VARIETIES)
    # the same grain, photographed with pixels of half the size, is twice as long in pixels: half the factor
    assert scale.known(scale.FAR_MM / 2)[0].factor == 0.5


def test_the_two_sessions_of_jasmine_are_the_two_scales():
    (far, near) = (np.array(of["Jasmine"]) for of in (scale.FAR, scale.NEAR))
    assert near / far == pytest.approx([scale.FAR_MM / scale.NEAR_MM] * 2, rel=0.05)


def test_the_reference_is_the_largest_round_object():
    grains = [grain_of((140, 70)), grain_of((200, 90)), grain_of((74, 71))]
    coin, larger = grain_of((180, 180)), grain_of((230, 228))
    others, reference, mm_per_pixel = scale.set_reference_aside([*grains, coin], 23.25)
    assert (others, reference) == (grains, coin)
    assert mm_per_pixel == pytest.approx(23.25 / 181, rel=0.01)
    assert scale.set_reference_aside([larger, *grains, coin], 23.25)[1] is larger
    with pytest.raises(BadImageError, match="no round reference object"):
        scale.set_reference_aside(grains, 23.25)


def test_grains_of_another_size_are_noticed():
    grains = [grain_of(axes) for axes in AXES]
    assert scale.misfit(grains, scale.TRAINING) is None
    assert scale.misfit(grains, scale.known(0.01)) is not None
    for times in (0.5, 1.8):
        sized = [grain_of((a * times, b * times)) for a, b in AXES]
        assert scale.misfit(sized, scale.TRAINING) == pytest.approx(times, rel=0.15)


def test_a_model_that_carries_its_scale_sees_grains_at_it():
    in_mm, in_pixels = ImageScale("mm", 0.04), ImageScale("px", 1.5)
    (view,) = scale.for_model(in_mm, ("a", "b"), 0.02)
    assert (view.factor, view.varieties) == (0.5, None)
    assert scale.for_model(in_pixels, ("a", "b"), None)[0].factor == pytest.approx(1 / 1.5)
    with pytest.raises(BadImageError, match="give its --reference-mm"):
        scale.for_model(in_mm, ("a", "b"), None)


def test_the_scales_of_the_public_set_are_for_its_varieties_alone():
    assert scale.for_model(None, VARIETIES, None) is scale.TRAINING
    assert len(scale.for_model(None, VARIETIES, 0.05)) == 2
    own = scale.for_model(None, ("Basmati", "Riz rond"), 0.05)
    assert [view.factor for view in own] == [1.0]
    assert scale.misfit([grain_of((300, 40))], own) is None
