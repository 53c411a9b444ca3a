"""Touching grains, cut apart along the line between the notches that they leave.

A grain's outline is nearly convex; that of two which touch has notches where they meet. Watershed on the distance
transform, the usual way, cuts long grains in two (their distance transform has several peaks) and leaves those that
lie side by side together (theirs has one ridge). Here a cut joins a notch to another point of the outline, and is kept
where the parts fill their convex hulls clearly better than the uncut outline did.
"""

from __future__ import annotations

import cv2
import numpy as np

CONVEX = 0.955
"""An outline that fills this much of its convex hull is one grain: of 1,500 training grains the 1st percentile lies
at 0.945 (Basmati) to 0.966 (Karacadag)."""

MIN_GAIN = 0.02  # the parts must fill their hulls better by this much
MIN_PART = 0.2  # of the uncut area: a smaller part is a broken tip or the bite of the germ
MIN_TURN = np.radians(18)  # a notch turns inwards by at least this
_STEP = 3
_MAX_NOTCHES = 12


def separate(outline: np.ndarray, depth: int = 6) -> list[np.ndarray]:
    """Cut an outline, closed, int32 `[n, 2]` (x, y), every pixel of it, into those of single grains.

    Makes at most `depth` cuts on the way to the smallest part; gives the outline itself where there is nothing to cut.
    """
    area, solidity = _fill(outline)
    if depth == 0 or solidity >= CONVEX or area < 30:
        return [outline]
    cut = _best_cut(outline, area, solidity)
    if cut is None:
        return [outline]
    return [grain for part in _parts(outline, *cut) for grain in separate(_closed(part), depth - 1)]


def _fill(outline: np.ndarray) -> tuple[float, float]:
    """Area in pixels, and its share of the convex hull."""
    area = cv2.contourArea(outline)
    return area, area / max(cv2.contourArea(cv2.convexHull(outline)), 1e-6)


def _parts(outline: np.ndarray, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
    i, j = min(i, j), max(i, j)
    return outline[i : j + 1], np.concatenate([outline[j:], outline[: i + 1]])


def _closed(part: np.ndarray) -> np.ndarray:
    """Fill in the pixels of the cut, so that notches are found along it too."""
    count = int(np.abs(part[0] - part[-1]).max())
    line = np.linspace(part[-1], part[0], count + 1)[1:-1]
    return np.concatenate([part, np.round(line).astype(np.int32)])


def _notches(outline: np.ndarray, area: float) -> list[int]:
    """Indices of the outline's points that turn inwards most sharply, the sharpest first."""
    arm = max(3, round(0.09 * np.sqrt(area)))
    if len(outline) < 4 * arm:
        return []
    smooth = np.stack([_circular_mean(axis, max(1, arm // 3)) for axis in outline.T.astype(np.float64)], axis=1)
    before, after = smooth - np.roll(smooth, arm, axis=0), np.roll(smooth, -arm, axis=0) - smooth
    turn = np.arctan2(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0], (before * after).sum(axis=1))
    # positive turns are those that close the outline: make it so whichever way round it runs
    turn *= np.sign(cv2.contourArea(outline, oriented=True)) or 1
    found: list[int] = []
    for index in np.argsort(turn).tolist():
        if turn[index] > -MIN_TURN or len(found) == _MAX_NOTCHES:
            break
        if all(arm < abs(index - other) < len(outline) - arm for other in found):
            found.append(index)
    return found


def _circular_mean(values: np.ndarray, half: int) -> np.ndarray:
    kernel = np.ones(2 * half + 1) / (2 * half + 1)
    return np.convolve(np.concatenate([values[-half:], values, values[:half]]), kernel, mode="valid")


def _best_cut(outline: np.ndarray, area: float, solidity: float) -> tuple[int, int] | None:
    notches = _notches(outline, area)
    corner = outline.min(axis=0) - 1
    solid = np.zeros(outline.max(axis=0)[::-1] - corner[::-1] + 2, np.uint8)
    cv2.fillPoly(solid, [outline - corner], 1)
    others = np.union1d(np.arange(0, len(outline), _STEP), notches).astype(np.int64)
    best, chosen = solidity + MIN_GAIN, None
    for notch in notches:
        ends = outline[others] - outline[notch]
        apart = np.hypot(*ends.T) > 1
        for other in others[apart & _inside(solid, outline[notch] - corner, ends)].tolist():
            worth = _worth(outline, notch, other, area, other in notches)
            if worth > best:
                best, chosen = worth, (notch, other)
    return chosen


def _inside(solid: np.ndarray, start: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Which straight lines from `start` along `ends` stay inside the object: bool `[len(ends)]`."""
    shares = np.linspace(0.05, 0.95, 15)
    points = np.round(start + ends[:, None, :] * shares[None, :, None]).astype(int)
    return solid[points[..., 1], points[..., 0]].all(axis=1)


def _worth(outline: np.ndarray, i: int, j: int, area: float, notches: bool) -> float:
    """How well the parts of a cut fill their hulls (0 to 1), less for a long cut and for one that ends in no notch."""
    one, two = _parts(outline, i, j)
    (area_one, fill_one), (area_two, fill_two) = _fill(one), _fill(two)
    if min(area_one, area_two) < MIN_PART * area:
        return 0.0
    fill = (area_one + area_two) / (area_one / fill_one + area_two / fill_two)
    length = float(np.hypot(*(outline[i] - outline[j])))
    return fill - 0.02 * length / np.sqrt(min(area_one, area_two)) - (0.0 if notches else 0.01)
