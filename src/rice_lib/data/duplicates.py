"""Find images that are the same photograph: byte for byte, or rotated, mirrored or saved again.

Two images are near duplicates when, in one of the eight rotations and flips, their 32 x 32 thumbnails differ by less
than `RMSE_LIMIT`. A perceptual hash picks the candidates: the low 8 x 8 DCT coefficients of the grey thumbnail (as in
pHash). A flip only changes signs of coefficients, and a transposition swaps (u, v) with (v, u); so absolute values,
with each such pair put in order, do not depend on the orientation. An orthonormal transform, absolute values and
ordering never make a distance longer: images within the limit always have hashes within the radius that is searched.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

THUMBNAIL_SIZE = 32
RMSE_LIMIT = 3.0  # root mean square difference of two thumbnails, grey levels, below which they show the same
_LOW = 8
HASH_LENGTH = _LOW * _LOW
_BASIS = cv2.dct(np.eye(THUMBNAIL_SIZE, dtype=np.float32), flags=cv2.DCT_ROWS).T[:_LOW]  # float32 [8, 32]
_UPPER = np.triu_indices(_LOW, k=1)
_RADIUS = 1.001 * RMSE_LIMIT * np.sqrt(3 * THUMBNAIL_SIZE**2)  # with room for float32's rounding of the hashes


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Shrink uint8 `[224, 224, 3]` to uint8 `[32, 32, 3]`, each pixel the mean of its 7 x 7."""
    return cv2.resize(pixels, (THUMBNAIL_SIZE, THUMBNAIL_SIZE), interpolation=cv2.INTER_AREA)


def perceptual_hash(thumb: np.ndarray) -> np.ndarray:
    """Compute float32 `[64]`, the same for all eight orientations of a uint8 thumbnail `[32, 32, 3]`."""
    grey = thumb.sum(axis=2, dtype=np.float32) / np.sqrt(3.0, dtype=np.float32)
    low = np.abs(_BASIS @ grey @ _BASIS.T)
    above, below = low[_UPPER], low.T[_UPPER]
    return np.concatenate([np.diag(low), np.maximum(above, below), np.minimum(above, below)])


def orientations(thumbs: np.ndarray) -> np.ndarray:
    """Make the eight rotations and flips of square images `[..., side, side, 3]`, as `[8, ..., side, side, 3]`."""
    turned = [np.rot90(thumbs, k, axes=(-3, -2)) for k in range(4)]
    return np.stack(turned + [np.flip(t, axis=-2) for t in turned])


def group_duplicates(digests: Sequence[str], hashes: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Group images that are the same photograph: int64 `[n]`, for each the row of its group's first one.

    Takes the sha256 of each file (empty where it could not be read), float32 `[n, 64]` from `perceptual_hash` (NaN
    rows, of no pixels, are compared by digest alone), and uint8 `[n, 224, 224, 3]`, read only at the candidates.
    """
    from scipy.spatial import KDTree

    count, first = len(digests), dict[str, int]()
    same = np.array([first.setdefault(digest, row) if digest else row for row, digest in enumerate(digests)])
    rows = np.flatnonzero((same == np.arange(count)) & np.isfinite(hashes).all(axis=1))
    pairs = rows[KDTree(hashes[rows]).query_pairs(_RADIUS, output_type="ndarray")] if len(rows) else []
    near = []
    for one, other in pairs:
        apart = orientations(thumbnail(pixels[one]).astype(np.float32)) - thumbnail(pixels[other])
        if np.sqrt((apart**2).mean(axis=(1, 2, 3)).min()) < RMSE_LIMIT:
            near.append((one, other))
    return join(same, np.array(near, dtype=np.int64).reshape(-1, 2))


def join(group: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Join groups of rows by further pairs, int64 `[m, 2]`; int64 `[n]`, as `group_duplicates` gives them."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(group)
    edges = np.concatenate([np.stack([np.arange(count), group]).T, pairs])
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(count, count))
    _, joined = connected_components(graph, directed=False)
    _, first_row, place = np.unique(joined, return_index=True, return_inverse=True)
    return first_row[place]
