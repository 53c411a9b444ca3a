"""The annotated picture of a tray: every grain outlined in its variety's colour and numbered, with a legend below."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from rice_lib.common.colours import COLOURS, INK, MUTED, PAPER
from rice_lib.contract.prediction import UNKNOWN
from rice_lib.tray.find import Grain
from rice_lib.tray.record import TrayRecord

GREY = "#8A97A3"  # the colour of what is unknown or cut
MAX_SIDE = 2400  # pixels of the longer side: a larger photograph is reduced
MIN_WIDTH = 900  # pixels: a smaller photograph is enlarged, so that numbers and legend can be read
MIN_NUMBERED = 14  # narrower grains get no numbers: they could not be read, and the outline says enough


def draw(image: np.ndarray, record: TrayRecord) -> Image.Image:
    """Draw a classified tray, uint8 RGB `[H, W, 3]`, above its legend."""
    assert record.counts is not None
    colours = {own.variety: COLOURS[i % len(COLOURS)] for i, own in enumerate(record.counts.shares)} | {UNKNOWN: GREY}
    tray = outlined(image, record.grains, [colours[own.label] for own in record.predictions], record.cut)
    legend = _legend(record, colours, tray.width)
    picture = Image.new("RGB", (tray.width, tray.height + legend.height), PAPER)
    picture.paste(tray, (0, 0))
    picture.paste(legend, (0, tray.height))
    return picture


def outlined(
    image: np.ndarray,
    grains: Sequence[Grain],
    colours: Sequence[str],
    left_out: Sequence[np.ndarray],
    max_side: int = MAX_SIDE,
) -> Image.Image:
    """Draw grains upon a photograph, uint8 RGB `[H, W, 3]`, each outlined in its colour and numbered from 1.

    The outlines `left_out` are hatched. The picture's longer side is at most `max_side` pixels.
    """
    height, width = image.shape[:2]
    factor = min(max_side / max(height, width), max(1.0, MIN_WIDTH / width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    typical = factor * float(np.median([grain.width for grain in grains])) if grains else 0.0
    thick = int(np.clip(typical / 14, 1, 4))
    for outline in left_out:
        _hatch(canvas, outline * factor, thick)
    for grain, colour in zip(grains, colours, strict=True):
        _outline(canvas, grain.outline * factor, colour, thick)
    tray = Image.fromarray(canvas)
    if typical >= MIN_NUMBERED:
        _number(tray, grains, colours, factor, int(np.clip(0.42 * typical, 9, 26)))
    return tray


def _outline(canvas: np.ndarray, points: np.ndarray, colour: str, thick: int) -> None:
    """Draw a coloured line with a thin dark one around it: seen on black, on white, and on the grain."""
    fixed = [np.round(points * 8).astype(np.int32)]
    for own, width in ((INK, thick + 2), (colour, thick)):
        cv2.polylines(canvas, fixed, True, ImageColor.getrgb(own), width, cv2.LINE_AA, shift=3)


def _hatch(canvas: np.ndarray, points: np.ndarray, thick: int) -> None:
    mask = np.zeros(canvas.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1)
    rows, columns = np.nonzero(mask)
    stripes = (rows + columns) % (6 * thick) < 2 * thick
    canvas[rows[stripes], columns[stripes]] = ImageColor.getrgb(GREY)
    _outline(canvas, points, GREY, 1)


def _number(tray: Image.Image, grains: Sequence[Grain], colours: Sequence[str], factor: float, height: int) -> None:
    """Write each grain's number on a label of its colour."""
    pen, font, pad = ImageDraw.Draw(tray), ImageFont.load_default(height), height * 0.22
    for number, (grain, colour) in enumerate(zip(grains, colours, strict=True), start=1):
        place = (grain.centre[0] * factor, grain.centre[1] * factor)
        left, top, right, bottom = pen.textbbox(place, str(number), font=font, anchor="mm")
        box = (left - pad * 1.4, top - pad, right + pad * 1.4, bottom + pad)
        pen.rounded_rectangle(box, radius=height * 0.45, fill=colour)
        pen.text(place, str(number), font=font, anchor="mm", fill=_ink_on(colour))


@cache
def _ink_on(colour: str) -> str:
    """White on a dark colour, ink on a pale one (relative luminance, WCAG 2.2)."""
    channels = np.array(ImageColor.getrgb(colour)) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return PAPER if linear @ (0.2126, 0.7152, 0.0722) < 0.25 else INK


def _legend(record: TrayRecord, colours: dict[str, str], width: int) -> Image.Image:
    """One column a variety: swatch and name, count and share, interval; a line for what is left out; the sheet."""
    assert record.counts is not None
    assert record.sheet is not None
    counts = record.counts
    size = int(np.clip(width / 62, 13, 34))
    small, pad, line = round(size * 0.8), round(size * 0.9), round(size * 1.45)
    legend = Image.new("RGB", (width, 2 * pad + 6 * line), PAPER)
    pen, step = ImageDraw.Draw(legend), (width - pad) / len(counts.shares)

    def swatch(x: float, y: float, colour: str) -> None:
        pen.rounded_rectangle((x, y, x + size, y + size), radius=size // 5, fill=colour)

    def write(x: float, row: int, text: str, height: int, ink: str) -> None:
        place = (x + 1.5 * size, pad + row * line + size / 2)
        pen.text(place, text, font=ImageFont.load_default(height), anchor="lm", fill=ink)

    for column, own in enumerate(counts.shares):
        x = pad + column * step
        swatch(x, pad, colours[own.variety])
        write(x, 0, own.variety, size, INK)
        write(x, 1, f"{own.count}    {own.share:.1%}", size, INK)
        write(x, 2, f"{own.low:.1%} to {own.high:.1%}", small, MUTED)
    note = f"{counts}. Shares are of the classified grains, with 95 % intervals."
    if counts.unknown:
        swatch(pad, pad + 3 * line, GREY)
        note += " Grey: unknown."
    if counts.cut:
        note += " Hatched: cut."
    measured = [f"{name} {value}" + f" ({ends})" * bool(ends) for name, value, ends, _ in record.sheet.rows()]
    for row, text in enumerate((note, ", ".join(measured[:3]), ", ".join(measured[3:])), start=3):
        write(pad, row, text, small, MUTED)
    return legend
