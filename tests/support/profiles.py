"""Colour profiles (ICC) whose effect is known."""

from __future__ import annotations

import struct

import numpy as np
from PIL import ImageCms

ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
"""Adobe RGB (1998) to XYZ, adapted to D50."""


def _icc(space: bytes, kind: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile (ICC.1:2001, version 2.4) of these tags."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)  # D50
    tags = {b"wtpt": white, b"cprt": b"text\0\0\0\0none\0", **tags}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    size = start + len(body)
    header = struct.pack(">I4xI4s4s4s12x4s24x", size, 0x02400000, kind, space, connection, b"acsp")
    header += struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + body


def rgb_profile(matrix: np.ndarray, gamma: float) -> bytes:
    """A profile of an RGB space: linear light to XYZ (D50) by `matrix` `[3, 3]`, one gamma for all channels."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH2x", 1, round(gamma * 256))
    tags = {name + b"TRC": curve for name in (b"r", b"g", b"b")}
    for name, column in zip((b"r", b"g", b"b"), matrix.T, strict=True):
        tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in column))
    return _icc(b"RGB ", b"mntr", b"XYZ ", tags)


def grey_profile(gamma: float) -> bytes:
    """A profile of a grey space."""
    return _icc(b"GRAY", b"mntr", b"XYZ ", {b"kTRC": b"curv\0\0\0\0" + struct.pack(">IH2x", 1, round(gamma * 256))})


def cmyk_profile() -> bytes:
    """A profile of a press whose cyan ink is orange: a table of 2 nodes a channel (ICC.1:2001, 6.5.9, `lut8Type`)."""
    nodes = np.indices((2, 2, 2, 2)).reshape(4, -1).T  # the first channel, cyan, varies slowest
    lightness = 255 * (1 - nodes[:, 3]) * (1 - nodes[:, :3].sum(1) / 4)
    orange = nodes[:, 0] * (1 - nodes[:, 3])
    table = np.stack([lightness, 128 + 50 * orange, 128 + 60 * orange], axis=1).round().astype(np.uint8)
    ramp = bytes(range(256))
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + table.tobytes() + ramp * 3
    return _icc(b"CMYK", b"prtr", b"Lab ", {b"A2B0": lut})


def srgb_profile() -> bytes:
    """sRGB, as LittleCMS writes it."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
