"""Relevance maps as pictures, with numpy and Pillow alone.

The map is laid over the image as the model sees it, one colour a patch: finer than that it knows nothing. Patches that
a foreground model never looked at are greyed.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 448
"""Side of the picture in pixels: twice what the model sees."""

STRENGTH = 0.6
"""Of the map over the image: the grain's outline and chalk stay visible."""

UNSEEN_GREY, UNSEEN_SHARE = 128, 0.45
"""What was not attended to is blended so far towards grey, as in notebook 04's figure of the attended patches."""

_ANCHORS = np.frombuffer(
    bytes.fromhex(
        "000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 cf4070 e55064 f4695c fb8761 fea571 fec287 "
        "fde0a1 fcfdbf"
    ),
    np.uint8,
).reshape(-1, 3)

COLOURS: np.ndarray = np.stack(
    [np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(_ANCHORS)), channel) for channel in _ANCHORS.T], axis=1
).round().astype(np.uint8)  # fmt: skip
"""The colour map from 0 to the most relevant patch, uint8 `[256, 3]`: magma (Smith & van der Walt 2015, CC0),
perceptually uniform and read alike by the colour-blind; its low end is the black of the ground."""

_INK, _MUTED, _PAPER = (34, 48, 60), (102, 113, 124), (255, 255, 255)
_MARGIN, _LINE, _BAR = 10, 24, 12


def overlay(pixels: np.ndarray, relevance: np.ndarray, seen: np.ndarray, size: int = SIZE) -> np.ndarray:
    """One map over its image, uint8 `[size, size, 3]`.

    Args:
        pixels: uint8 `[224, 224, 3]`.
        relevance: float `[side, side]`; the largest value takes the brightest colour.
        seen: bool `[side, side]`, the patches that the model attended to.
        size: side of the picture, a multiple of the map's.
    """
    image = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC), np.float32)
    level = np.rint(255 * relevance / max(float(relevance.max()), np.finfo(np.float32).tiny)).astype(int)
    colour, looked_at = _enlarged(COLOURS[level], size), _enlarged(seen, size)[..., None]
    greyed = image * (1 - UNSEEN_SHARE) + UNSEEN_GREY * UNSEEN_SHARE
    return np.where(looked_at, _mapped(image, colour), greyed).round().astype(np.uint8)


def colour_bar() -> np.ndarray:
    """The colours from 0 to the largest value as `overlay` shows them, uint8 `[2, 256, 3]`: over white grain, and over
    black ground."""
    white = np.full(COLOURS.shape, 255.0)
    return np.stack([_mapped(white, COLOURS), _mapped(0 * white, COLOURS)]).round().astype(np.uint8)


def poster(picture: np.ndarray, heading: str, lines: tuple[str, ...], largest: float, unseen: bool) -> Image.Image:
    """An overlay with what was told above it and the scale of its colours below.

    Args:
        picture: what `overlay` gives.
        heading: what was told.
        lines: further lines under it.
        largest: the most relevant patch's share, in [0, 1].
        unseen: whether there are greyed patches, which the scale then explains.
    """
    size = picture.shape[0]
    top = _MARGIN + _LINE * (1 + len(lines)) + 4
    sheet = Image.new("RGB", (size + 2 * _MARGIN, top + size + _MARGIN + _BAR + _LINE + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 2), _fitted(heading, size, 20), _INK, ImageFont.load_default(20))
    for number, line in enumerate(lines, 1):
        draw.text((_MARGIN, _MARGIN + _LINE * number + 2), _fitted(line, size, 14), _MUTED, ImageFont.load_default(14))
    sheet.paste(Image.fromarray(picture), (_MARGIN, top))
    _scale(sheet, draw, top + size + _MARGIN, largest, unseen)
    return sheet


def _scale(sheet: Image.Image, draw: ImageDraw.ImageDraw, top: int, largest: float, unseen: bool) -> None:
    """The colour bar from 0 to the largest share, and the grey of what was not looked at."""
    font, width = ImageFont.load_default(13), sheet.width - 2 * _MARGIN
    length = width // 2
    bar = Image.fromarray(colour_bar()).resize((length, _BAR), Image.Resampling.NEAREST)
    sheet.paste(bar, (_MARGIN, top))
    draw.text((_MARGIN, top + _BAR + 3), "0", _MUTED, font)
    draw.text((_MARGIN + length, top + _BAR + 3), f"{largest:.1%} of the relevance", _MUTED, font, anchor="ra")
    if unseen:
        grey, left = round(UNSEEN_GREY * UNSEEN_SHARE), _MARGIN + length + 24
        draw.rectangle((left, top, left + 2 * _BAR, top + _BAR - 1), (grey,) * 3)
        draw.text((left + 2 * _BAR + 6, top - 2), "not looked at", _MUTED, font)


def _mapped(image: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return image * (1 - STRENGTH) + colour.astype(np.float32) * STRENGTH


def _enlarged(grid: np.ndarray, size: int) -> np.ndarray:
    """`[side, side, ...]` repeated to `[size, size, ...]`."""
    factor = size // grid.shape[0]
    return grid.repeat(factor, 0).repeat(factor, 1)


def _fitted(text: str, width: int, height: int) -> str:
    """The text, cut where it would run over the edge."""
    font = ImageFont.load_default(height)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
