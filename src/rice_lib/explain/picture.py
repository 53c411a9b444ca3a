"""Relevance maps as pictures, with numpy and Pillow alone.

The map lies over the image as the model sees it, one colour a patch: it knows nothing finer than that.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rice_lib.common.colours import INK, MUTED, PAPER

SIZE = 448  # side of the picture in pixels: twice what the model sees
STRENGTH = 0.6  # share of the map's colour in the blend with the image: the grain's outline and chalk stay visible

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
perceptually uniform and safe for the colour-blind; its low end is the black of the background."""

_MARGIN, _LINE, _BAR = 10, 24, 12


def overlay(pixels: np.ndarray, relevance: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Draw a map, float `[side, side]`, over its image, uint8 `[224, 224, 3]`: uint8 `[size, size, 3]`.

    The largest value takes the brightest colour, 0 and less the darkest. `size` is a multiple of the map's side.
    """
    image = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
    share = np.maximum(relevance, 0) / max(float(relevance.max()), np.finfo(np.float32).tiny)
    factor = size // len(relevance)
    return _blend(image, COLOURS[np.rint(255 * share).astype(int)].repeat(factor, axis=0).repeat(factor, axis=1))


def colour_bar() -> np.ndarray:
    """Draw the colours from 0 to the largest value as `overlay` shows them, over white and over black: uint8
    `[2, 256, 3]`."""
    return np.stack([_blend(np.full(COLOURS.shape, base, np.uint8), COLOURS) for base in (255, 0)])


def poster(picture: np.ndarray, heading: str, line: str, largest: float) -> Image.Image:
    """Draw a sheet: heading and line, what `overlay` gave, and the scale of its colours up to a fall of log-odds."""
    size = picture.shape[0]
    top = _MARGIN + 2 * _LINE + 4
    sheet = Image.new("RGB", (size + 2 * _MARGIN, top + size + 2 * _MARGIN + _BAR + _LINE), PAPER)
    draw = ImageDraw.Draw(sheet)
    for text, height, place, colour in ((heading, 20, _MARGIN - 2, INK), (line, 14, _MARGIN + _LINE + 2, MUTED)):
        font = ImageFont.load_default(height)
        draw.text((_MARGIN, place), _fitted(text, size, font), colour, font)
    sheet.paste(Image.fromarray(picture), (_MARGIN, top))
    top += size + _MARGIN
    bar = Image.fromarray(colour_bar()).resize((size, _BAR), Image.Resampling.NEAREST)
    sheet.paste(bar, (_MARGIN, top))
    font = ImageFont.load_default(13)
    draw.text((_MARGIN, top + _BAR + 3), "no fall", MUTED, font)
    odds = float(f"{np.exp(min(largest, 27)):.3g}")  # three digits; and 67,700, not 6.77e+04
    scale = f"the odds fall to 1 / {odds:,.12g}" if largest > 0 else "no fall anywhere"
    draw.text((_MARGIN + size, top + _BAR + 3), scale, MUTED, font, anchor="ra")
    return sheet


def _blend(image: np.ndarray, colour: np.ndarray) -> np.ndarray:
    mixed = image.astype(np.float32) * (1 - STRENGTH) + colour.astype(np.float32) * STRENGTH
    return mixed.round().astype(np.uint8)


def _fitted(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Cut a text where it would run over the edge."""
    if font.getlength(text) <= width:
        return text
    return next((s for n in range(len(text), 0, -1) if font.getlength(s := text[:n] + "...") <= width), "...")
