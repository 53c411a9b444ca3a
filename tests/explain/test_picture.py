"""A map as a picture: the colours, and which patch is the brightest."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from PIL import ImageDraw

from rice_lib.explain.picture import COLOURS, colour_bar, overlay, poster


def test_the_colours_are_magma():
    magma = mpl.colormaps["magma"](np.arange(256))[:, :3] * 255
    assert np.abs(COLOURS - magma).max() < 3.5


def test_an_overlay_shows_the_most_relevant_patch_brightest():
    relevance = np.zeros((14, 14))
    relevance[3, 5], relevance[3, 6], relevance[9, 9] = 0.2, 0.1, -5
    picture = overlay(np.zeros((224, 224, 3), np.uint8), relevance).astype(int)
    patches = picture.reshape(14, 32, 14, 32, 3).mean((1, 3, 4))
    assert picture.shape == (448, 448, 3)
    assert patches.argmax() == 3 * 14 + 5
    assert patches[3, 5] > patches[3, 6] > patches[3, 7]
    assert patches[9, 9] == patches[0, 0], "what speaks against the class is as dark as what says nothing"
    np.testing.assert_array_equal(picture[100, 170], colour_bar()[1, 255])


@pytest.mark.parametrize("largest", [-1.0, 0.0, 3.2, 1e6])
def test_a_poster_takes_any_map_and_any_text(largest):
    sheet = poster(np.zeros((448, 448, 3), np.uint8), "unknown: " + "x" * 300, "y" * 300, largest)
    assert sheet.width == 468
    assert (np.asarray(sheet)[:, -8:] == 255).all(), "a text runs over the edge"


def test_the_scale_of_a_poster_is_a_number_for_people(monkeypatch):
    drawn = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _, place, text, *rest, **more: drawn.append(text))
    for largest in (0.2, 11.12):
        poster(np.zeros((448, 448, 3), np.uint8), "", "", largest)
    assert [text for text in drawn if "odds" in text] == ["the odds fall to 1 / 1.22", "the odds fall to 1 / 67,500"]
