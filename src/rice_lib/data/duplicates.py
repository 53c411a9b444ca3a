"""Which images are the same photograph: byte for byte, or turned, mirrored or saved anew.

Two images are near duplicates when, in one of the eight rotations and flips, their 32 x 32 thumbnails differ
by less than `RMSE_LIMIT`. Comparing all pairs of 75,000 is too much, so a perceptual hash picks the
candidates: the low 8 x 8 DCT coefficients of the grey thumbnail (as in pHash), made the same for all eight
orientations. A flip only changes signs of coefficients, and a transposition swaps (u, v) with (v, u); so
absolute values, with each such pair put in order, do not depend on the orientation. The coefficients are kept
as numbers, not cut down to bits: an orthonormal transform, taking absolute values and ordering never make a
distance longer, so images within the limit always have hashes within the radius that is searched. No pair is
missed, and each candidate is then compared pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

THUMBNAIL_SIZE = 32
RMSE_LIMIT = 3.0
"""Root mean square difference (grey levels of 255) of two thumbnails below which they show the same
photograph."""

_LOW = 8
HASH_LENGTH = _LOW * _LOW
_BASIS = cv2.dct(np.eye(THUMBNAIL_SIZE, dtype=np.float32), flags=cv2.DCT_ROWS).T[:_LOW]
"""float32 `[8, 32]`: the lowest rows of the orthonormal DCT."""
_UPPER = np.triu_indices(_LOW, k=1)
_RADIUS = RMSE_LIMIT * np.sqrt(3 * THUMBNAIL_SIZE**2)
_BLOCK = 256


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """uint8 `[224, 224, 3]` shrunk to uint8 `[32, 32, 3]`, each pixel the mean of its 7 x 7."""
    return cv2.resize(pixels, (THUMBNAIL_SIZE, THUMBNAIL_SIZE), interpolation=cv2.INTER_AREA)


def perceptual_hash(thumb: np.ndarray) -> np.ndarray:
    """float32 `[64]`, the same for all eight orientations of a uint8 thumbnail `[32, 32, 3]`.

    The Euclidean distance of two hashes is at most that of the two thumbnails in any orientation.
    """
    grey = thumb.sum(axis=2, dtype=np.float32) / np.sqrt(3.0, dtype=np.float32)
    low = np.abs(_BASIS @ grey @ _BASIS.T)
    above, below = low[_UPPER], low.T[_UPPER]
    return np.concatenate([np.diag(low), np.maximum(above, below), np.minimum(above, below)])


def orientations(thumbs: np.ndarray) -> np.ndarray:
    """The eight rotations and flips of square images `[..., side, side, 3]`, as `[8, ..., side, side, 3]`."""
    turned = [np.rot90(thumbs, k, axes=(-3, -2)) for k in range(4)]
    return np.stack(turned + [np.flip(t, axis=-2) for t in turned])


def group_duplicates(digests: Sequence[str], hashes: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Groups of images that are the same photograph.

    Args:
        digests: sha256 of each file; empty where the file could not be read.
        hashes: float32 `[n, 64]` from `perceptual_hash`; NaN rows (no pixels) are compared by digest alone.
        pixels: uint8 `[n, 224, 224, 3]`, read only at the candidates.

    Returns:
        int64 `[n]`: for each image the row of its group's first one; a lone image is its own group.
    """
    groups = np.arange(len(digests))
    first: dict[str, int] = {}
    for row, digest in enumerate(digests):
        if digest:
            groups[row] = first.setdefault(digest, row)
    rows = np.flatnonzero((groups == np.arange(len(groups))) & np.isfinite(hashes).all(axis=1))
    edges = _near_pairs(hashes[rows], rows, pixels)
    for one, other in edges:
        groups[groups == groups[other]] = groups[one]
    _, first_row, place = np.unique(groups, return_index=True, return_inverse=True)
    return first_row[place]


def _near_pairs(hashes: np.ndarray, rows: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Verified pairs of rows, int64 `[m, 2]`; a pair whose two are already joined by others is left out."""
    order = np.argsort(hashes[:, 0], kind="stable")
    hashes, rows = hashes[order], rows[order]
    squares = (hashes**2).sum(axis=1)
    ends = np.searchsorted(hashes[:, 0], hashes[:, 0] + _RADIUS, side="right")
    leader = np.arange(len(rows))
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(rows), _BLOCK):
        stop = min(start + _BLOCK, len(rows))
        window = slice(start, ends[stop - 1])
        # |a - b|^2 = |a|^2 + |b|^2 - 2ab, with slack for float32's rounding: candidates are verified exactly
        here = squares[start:stop, None]
        distances = here + squares[window] - 2 * (hashes[start:stop] @ hashes[window].T)
        for one, candidates in _candidates(distances < 1.02 * _RADIUS**2 + 1e-5 * here, start):
            others = candidates[leader[candidates] != leader[one]]
            for other in others[_same_photograph(pixels, rows[one], rows[others])] if len(others) else ():
                pairs.append((rows[one], rows[other]))
                leader[leader == leader[other]] = leader[one]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _candidates(close: np.ndarray, start: int) -> Iterator[tuple[int, np.ndarray]]:
    """(position, later positions that are close to it) for each that has any."""
    ones, others = np.nonzero(np.triu(close, k=1))
    cuts = np.flatnonzero(np.diff(ones)) + 1
    for group in np.split(np.arange(len(ones)), cuts) if len(ones) else ():
        yield start + ones[group[0]], start + others[group]


def _same_photograph(pixels: np.ndarray, row: int, others: np.ndarray) -> np.ndarray:
    """bool `[len(others)]`: whether each is the image at `row` in some orientation."""
    turned = orientations(thumbnail(pixels[row])).astype(np.float32).reshape(8, -1)
    found = np.zeros(len(others), dtype=bool)
    for place, other in enumerate(others):
        difference = turned - thumbnail(pixels[other]).reshape(-1)
        found[place] = np.sqrt((difference**2).mean(axis=1).min()) < RMSE_LIMIT
    return found
