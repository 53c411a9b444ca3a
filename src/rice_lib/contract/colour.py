"""From pixels of any mode to 8-bit sRGB: the part of the image contract that an ordinary RGB photograph never needs.

Transparency is laid on black. An embedded colour profile is applied (LittleCMS, relative colorimetric with black point
compensation, as photo editors do), unless it is sRGB itself.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from rice_lib.contract.image_file import BadImageError

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsTransform

Conversion = Callable[[Image.Image], Image.Image]

SRGB_TOLERANCE = 2
"""A profile that moves no colour by more levels (of 255) than this is sRGB; writers round its curve differently."""

BAND_PIXELS = 4 * 1024 * 1024
"""Large images are converted a band of rows at a time, so that intermediate forms stay small."""

_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_GREY = ("1", "L", "LA", *_DEEP_GREY)
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""A profile's colour space (ICC.1:2022, table 19) to Pillow's mode."""

_TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


def to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """Convert any mode to 8-bit RGB in sRGB; what was passed over is added to `notes`.

    16-bit grey is scaled (not clipped). Raises `BadImageError` for Lab, and for pixels of 32 bits: what is white there
    is not said.
    """
    if image.mode == "LAB":
        raise BadImageError("Lab colours are not supported; convert it to RGB")
    to_eight_bits = _to_eight_bits(image) if image.mode in _DEEP_GREY else None
    to_srgb = _to_srgb(image, notes)

    def convert(band: Image.Image) -> Image.Image:
        if to_eight_bits is not None:
            band = to_eight_bits(band)
        if "A" not in band.getbands() and "transparency" not in band.info:
            return to_srgb(band)
        colour = band.convert("RGBA")
        if to_srgb is not _plain:
            alpha = colour.getchannel("A")
            colour = to_srgb(colour.convert("RGB"))
            colour.putalpha(alpha)
        return Image.alpha_composite(Image.new("RGBA", band.size, (0, 0, 0, 255)), colour).convert("RGB")

    rows = max(1, BAND_PIXELS // image.width)
    if image.height <= rows:
        return convert(image)
    result = Image.new("RGB", image.size)
    for start in range(0, image.height, rows):
        box = (0, start, image.width, min(start + rows, image.height))
        result.paste(convert(image.crop(box)), box)
    return result


def _to_eight_bits(image: Image.Image) -> Conversion:
    """Give the conversion of grey of 16 bits to `L`."""
    if image.mode in ("I", "F") and image.format != "PPM":  # Pillow scales PPM's own maximum to 65,535
        raise BadImageError("pixels of 32 bits do not say what white is; convert it to 8 or 16 bits")
    tags = getattr(image, "tag_v2", {})
    white = 4095.0 if tags.get(_TIFF_BITS_PER_SAMPLE) == (12,) else 65535.0
    # Pillow turns grey with white as zero the right way round in 8 bits alone
    inverted = image.mode.startswith("I;16") and tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO

    def convert(band: Image.Image) -> Image.Image:
        grey = np.asarray(band).astype(np.float32) / (white / 255.0)
        grey = 255.0 - grey if inverted else grey
        return Image.fromarray(grey.clip(0, 255).round().astype(np.uint8))

    return convert


def _to_srgb(image: Image.Image, notes: list[str]) -> Conversion:
    """Give the conversion of colours to sRGB: through the embedded profile where there is one that counts."""
    if "icc_profile" in image.info:
        profile = image.info["icc_profile"]
        try:
            mode, transform = _profile_transform(profile)
        except Exception:  # lcms and Pillow each raise several kinds, and Pillow hands on None for what it cannot read
            notes.append("colour profile ignored (damaged)")
        else:
            if _fits(mode, image.mode):
                return _through(transform, mode) if transform is not None else _plain
            notes.append("colour profile ignored (made for another kind of image)")
    return _plain


def _plain(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _through(transform: ImageCmsTransform, mode: str) -> Conversion:
    return lambda image: transform.apply(image.convert(mode))


def _fits(profile_mode: str, image_mode: str) -> bool:
    if profile_mode == "L":
        return image_mode in _GREY
    if profile_mode == "RGB":  # scanners embed sRGB in grey images, too
        return image_mode != "CMYK"
    return profile_mode == image_mode


@lru_cache(maxsize=4)
def _profile_transform(profile: bytes) -> tuple[str, ImageCmsTransform | None]:
    """Give the mode that a profile takes, and its transform to 8-bit sRGB (None for a profile that is sRGB); raises
    several kinds of `Exception` for a damaged one."""
    from PIL import ImageCms

    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = _SPACES[opened.profile.xcolor_space.strip()]
    # a transform's one-pixel cache must not be shared by threads
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE
    transform = ImageCms.buildTransform(
        opened, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC, flags
    )
    return mode, (None if mode == "RGB" and _changes_nothing(transform) else transform)


def _changes_nothing(transform: ImageCmsTransform) -> bool:
    levels = np.linspace(0, 255, 18).astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(18, -1, 3)
    changed = np.asarray(transform.apply(Image.fromarray(colours)))
    return int(np.abs(changed.astype(int) - colours).max()) <= SRGB_TOLERANCE
