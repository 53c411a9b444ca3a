"""The annotated picture of a tray: every grain outlined in its variety's colour and numbered, with a legend below."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rice_lib.common.classes import COLOURS
from rice_lib.common.colours import INK, MUTED, PAPER
from rice_lib.contract.prediction import UNKNOWN
from rice_lib.tray.count import Count
from rice_lib.tray.find import Grain
from rice_lib.tray.output import Answer, headline
from rice_lib.tray.tell import Told

GREY = "#8A97A3"
"""Of what is unknown."""

LONGEST = 2400
"""A larger photograph is drawn at this size; pixels of the longer side."""

LEAST_WIDTH = 900
"""A smaller one is enlarged to this width, so that numbers and legend can be read."""


def draw(image: np.ndarray, answer: Answer, cut: Sequence[np.ndarray]) -> Image.Image:
    """The picture of a tray that has been told.

    Args:
        image: the tray, uint8 RGB `[H, W, 3]`.
        answer: its grains, what was told of each, and the count.
        cut: outlines of what the border cuts: hatched.

    Returns:
        RGB, the tray above its legend.
    """
    assert answer.count is not None
    height, width = image.shape[:2]
    factor = min(LONGEST / max(height, width), max(1.0, LEAST_WIDTH / width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    canvas = cv2.resize(image, size, interpolation=how) if factor != 1 else image.copy()
    colours = {own.variety: COLOURS[i % len(COLOURS)] for i, own in enumerate(answer.count.shares)} | {UNKNOWN: GREY}
    typical = factor * float(np.median([grain.width for grain in answer.grains]))
    thick = int(np.clip(typical / 14, 1, 4))
    for outline in cut:
        _hatch(canvas, outline * factor, thick)
    for grain, told in zip(answer.grains, answer.told, strict=True):
        _outline(canvas, grain.outline * factor, colours[told.label], thick)
    tray = Image.fromarray(canvas)
    _numbers(tray, answer.grains, answer.told, colours, factor=factor, typical=typical)
    legend = _legend(answer.count, colours, tray.width, bool(cut))
    whole = Image.new("RGB", (tray.width, tray.height + legend.height), PAPER)
    whole.paste(tray, (0, 0))
    whole.paste(legend, (0, tray.height))
    return whole


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _outline(canvas: np.ndarray, points: np.ndarray, colour: str, thick: int) -> None:
    """A coloured line with a thin dark one around it: seen on black, on white, and on the grain."""
    fixed = [np.round(points * 8).astype(np.int32)]
    cv2.polylines(canvas, fixed, True, _rgb(INK), thick + 2, cv2.LINE_AA, shift=3)
    cv2.polylines(canvas, fixed, True, _rgb(colour), thick, cv2.LINE_AA, shift=3)


def _hatch(canvas: np.ndarray, points: np.ndarray, thick: int) -> None:
    x, y, w, h = cv2.boundingRect(points.astype(np.int32))
    mask = np.zeros((h + 1, w + 1), np.uint8)
    cv2.fillPoly(mask, [np.round(points - (x, y)).astype(np.int32)], 1)
    x, y = max(0, x), max(0, y)
    part = canvas[y : y + h + 1, x : x + w + 1]
    rows, columns = np.mgrid[: part.shape[0], : part.shape[1]]
    stripes = (rows + columns + x + y) % (6 * thick) < 2 * thick
    part[(mask[: part.shape[0], : part.shape[1]] > 0) & stripes] = _rgb(GREY)
    _outline(canvas, points, GREY, 1)


def _numbers(
    tray: Image.Image,
    grains: Sequence[Grain],
    told: Sequence[Told],
    colours: dict[str, str],
    *,
    factor: float,
    typical: float,
) -> None:
    """Each grain's number, on a disc of its colour where that can be read, else none: the outline still tells."""
    height = int(np.clip(0.42 * typical, 9, 26))
    if typical < 14:
        return
    pen, font = ImageDraw.Draw(tray), _font(height)
    for number, (grain, own) in enumerate(zip(grains, told, strict=True), start=1):
        x, y = grain.centre[0] * factor, grain.centre[1] * factor
        text = str(number)
        left, top, right, bottom = pen.textbbox((x, y), text, font=font, anchor="mm")
        pad = height * 0.22
        pen.rounded_rectangle(
            (left - pad * 1.4, top - pad, right + pad * 1.4, bottom + pad),
            radius=height * 0.45,
            fill=colours[own.label],
        )
        pen.text((x, y), text, font=font, anchor="mm", fill=_ink_on(colours[own.label]))


def _ink_on(colour: str) -> str:
    """White on a dark colour, ink on a pale one (relative luminance, WCAG 2.2)."""
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in _rgb(colour))]
    return PAPER if 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2] < 0.25 else INK


def _legend(count: Count, colours: dict[str, str], width: int, cut: bool) -> Image.Image:
    """One column a variety: swatch and name, count and share, interval; and a line for what is not told."""
    columns = len(count.shares)
    size = int(np.clip(width / 62, 13, 34))
    pad, line = round(size * 0.9), round(size * 1.45)
    legend = Image.new("RGB", (width, 2 * pad + 4 * line), PAPER)
    pen, step = ImageDraw.Draw(legend), (width - pad) / columns
    for column, own in enumerate(count.shares):
        x = pad + column * step
        pen.rounded_rectangle((x, pad, x + size, pad + size), radius=size // 5, fill=colours[own.variety])
        pen.text((x + 1.5 * size, pad + size / 2), own.variety, font=_font(size), anchor="lm", fill=INK)
        text = f"{own.count}    {own.share:.1%}"
        pen.text((x + 1.5 * size, pad + line + size / 2), text, font=_font(size), anchor="lm", fill=INK)
        text = f"{own.low:.1%} to {own.high:.1%}"
        small = _font(round(size * 0.8))
        pen.text((x + 1.5 * size, pad + 2 * line + size / 2), text, font=small, anchor="lm", fill=MUTED)
    x, y = pad, pad + 3 * line
    note = f"{headline(count)}. Shares are of the grains told, with 95 % intervals."
    if count.unknown:
        pen.rounded_rectangle((x, y, x + size, y + size), radius=size // 5, fill=GREY)
        note += " Grey: unknown."
    if cut:
        note += " Hatched: cut."
    pen.text((x + 1.5 * size, y + size / 2), note, font=_font(round(size * 0.8)), anchor="lm", fill=MUTED)
    return legend


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own scalable font, so that the picture is the same on every machine."""
    return ImageFont.load_default(size)
