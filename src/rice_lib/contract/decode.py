"""The one image contract: how the bytes of an image file become the pixels that every model sees.

Training, evaluation, ONNX, TensorRT, Triton and the command line all call `decode`; none has a resize of its own. The
step from there to normalised floats lies inside the model (in the ONNX graph, too), so a client can never get it wrong.

The contract: the first frame, upright by its EXIF tag, as 8-bit sRGB (an embedded colour profile is applied,
transparency is laid on black, the training images' background), padded with black to a square, then resized by
Pillow's antialiased bilinear filter. Any file may come: what is no image is an error that says why.
"""

from __future__ import annotations

import io
import logging
import re
import threading
import warnings
from contextlib import ExitStack, suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from rice_lib.contract.image_file import SUFFIXES, BadImageError, Format, read_file, recognise

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

IMAGE_SIZE = 224
"""Side in pixels of the square that the models see."""

NORMALISE_MEAN = NORMALISE_STD = 127.5
"""`(pixel - 127.5) / 127.5`: mean and std 0.5 on [0, 1], as `google/vit-base-patch16-224-in21k` was trained with."""

MAX_PIXELS = 128 * 1024 * 1024
"""An image with more pixels is an error before a pixel is decoded: a decompression bomb costs nothing."""

MAX_SIDE = 16_384
"""No side may be longer, in pixels: a strip of 40 x 65,535 would be resized as the square of 65,535, 14 s of work."""

MAX_PIXELS_IN_PYTHON = 2 * 1024 * 1024
"""Limit for the rare forms that Pillow decodes pixel by pixel in Python, at one or two seconds a megapixel."""

LARGE_PIXELS = 16 * 1024 * 1024
"""An image larger than this is decoded by one thread at a time, so that four threads cannot hold four."""

MAX_SCANS = 500
"""Scans of a progressive JPEG: each goes over all pixels once more, and files are made with thousands of empty ones.
Cameras write about 10; 500 is what libjpeg-turbo's own fuzzers stop at."""

ANNOTATED, EXPLAINED = ".annotated.png", ".why.png"
"""How the names of the pictures end that `--grains` and `--explain` draw: they are never taken for photographs."""

_PLUGINS: dict[Format, str] = {
    **{"JPEG": "Jpeg", "PNG": "Png", "GIF": "Gif", "WEBP": "WebP", "BMP": "Bmp"},
    **{"TIFF": "Tiff", "PPM": "Ppm", "JPEG2000": "Jpeg2K", "AVIF": "Avif"},
}
"""How the names of Pillow's module and class begin. `Image.open` would import five before it looks at the file."""

_DECODED_BY_PYTHON = {"ppm", "ppm_plain", "bmp_rle"}
"""Names of Pillow's decoders."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation (EXIF 2.32, section 4.6.4) to what turns the image upright."""

_EXIF_KEYS = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
_TIFF_NEW_SUBFILE_TYPE, _TIFF_SUB_IFDS, _TIFF_DNG_VERSION = 254, 330, 50706

_BAND_PIXELS = 4 * 1024 * 1024
"""Large images are converted and resized a band of rows at a time, so that no second one of full size is made."""

_large = threading.RLock()


def configure_pillow() -> None:
    """Set Pillow up for a process that decodes anybody's files: a command or a server calls it, the library never does.

    Pillow's own guard against decompression bombs goes to our limit, freed image memory is used again, and warnings
    about odd metadata are silenced.
    """
    # it raises from twice this number on, and also looks at what a format allocates while a file is opened
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    # Pillow's PILLOW_BLOCKS_MAX: fresh pages for every image cost a third of the time
    Image.core.set_blocks_max(8)
    # once, and not around every call: `warnings.catch_warnings` changes the whole process, and decoding runs in threads
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())


def is_photograph(name: str) -> bool:
    """Say whether a file of this name, found in a folder, is an input: an image, neither hidden nor drawn by us."""
    name = name.lower()
    return name.endswith(SUFFIXES) and not name.startswith(".") and not name.endswith((ANNOTATED, EXPLAINED))


def decode(source: bytes | str | Path) -> np.ndarray:
    """Decode an image file (its bytes, or its path) under the image contract: uint8 RGB `[224, 224, 3]`, read-only.

    Raises `BadImageError` where it is missing, empty, truncated, too large or not an image; the message says which.
    """
    return decode_with_notes(source)[0]


def decode_with_notes(source: bytes | str | Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode as `decode`, and note what a person may want to know of the file (`first of 12 frames`)."""
    with ExitStack() as turn:
        image, notes = _open(source, turn)
        pixels = to_square(image).tobytes()
    return np.frombuffer(pixels, np.uint8).reshape(IMAGE_SIZE, IMAGE_SIZE, 3), notes


def open_image(source: bytes | str | Path) -> Image.Image:
    """Open and fully decode an image as upright 8-bit RGB at its own size; raises `BadImageError`."""
    with ExitStack() as turn:
        return _open(source, turn)[0]


def to_square(image: Image.Image) -> Image.Image:
    """Pad an RGB image with black to a square, centred, and resize it to 224 x 224 (antialiased bilinear).

    The bits are those of padding first and resizing then, but the padded square is never made: Pillow resizes rows,
    then columns, so bands of rows can be padded and resized one by one. A strip of 16,000 x 10 pixels stays small.
    """
    (width, height), size = image.size, IMAGE_SIZE
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    if width == height == size:
        return image
    if width == height and width * height <= _BAND_PIXELS:
        return image.resize((size, size), Image.Resampling.BILINEAR)
    columns = Image.new("RGB", (size, side))
    rows = max(1, _BAND_PIXELS // side)
    for start in range(0, height, rows):
        # a crop beyond the image's edges is black there
        band = image.crop((-left, start, side - left, min(start + rows, height)))
        columns.paste(band.resize((size, band.height), Image.Resampling.BILINEAR), (0, top + start))
    return columns.resize((size, size), Image.Resampling.BILINEAR)


def _open(source: bytes | str | Path, turn: ExitStack) -> tuple[Image.Image, tuple[str, ...]]:
    """Give an upright RGB image and the notes; `turn` then holds the lock of large images where this is one."""
    data = source if isinstance(source, bytes) else read_file(source)
    if not data:
        raise BadImageError("the file is empty")
    form = recognise(data)
    try:
        image = _opened(form, data)
        _check_size(image.size, image.tile[0][0] if image.tile else "")
        if image.width * image.height > LARGE_PIXELS:
            turn.enter_context(_large)
        if form == "JPEG":
            _check_scans(data, image)
        elif form == "TIFF":
            _check_no_raw(image)
        notes = _note_frames(form, image)
        image.load()
        upright = _orientation(image, notes)
        rgb = _to_rgb(image, notes)
        return (rgb.transpose(upright) if upright is not None else rgb), tuple(notes)
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        count = int(next(iter(re.findall("[0-9]+", str(error))), 0))
        raise BadImageError(f"the image is too large ({count:,} pixels)") from None
    except Exception as error:  # Pillow's decoders raise whatever their format's parser happens to raise
        raise BadImageError(_reason(error)) from None


def _opened(form: Format, data: bytes) -> ImageFile:
    if form == "TIFF":
        _silence_libtiff()
    if form == "HEIC":
        try:
            from pillow_heif import HeifImageFile
        except ImportError:
            reason = "HEIC needs pillow-heif, not installed here: convert it to JPEG, or pip install 'rice-lib[heic]'"
            raise BadImageError(reason) from None
        return HeifImageFile(io.BytesIO(data))
    module = import_module(f"PIL.{_PLUGINS[form]}ImagePlugin")
    return getattr(module, f"{_PLUGINS[form]}ImageFile")(io.BytesIO(data))


@lru_cache(maxsize=1)
def _silence_libtiff() -> None:
    """Keep libtiff from writing its complaints to stderr; Pillow raises for them, but leaves its handlers in place."""
    import ctypes

    with suppress(OSError, AttributeError):  # linked statically (Windows): nothing to get hold of
        # a library's handle finds the functions of the libraries that it is linked to
        linked = ctypes.CDLL(Image.core.__file__)
        linked.TIFFSetErrorHandler(None)
        linked.TIFFSetWarningHandler(None)


def _check_size(size: tuple[int, int], decoder: str) -> None:
    width, height = size
    too_large = f"the image is too large ({width:,} x {height:,} pixels"
    if width * height > MAX_PIXELS or max(size) > MAX_SIDE:
        raise BadImageError(f"{too_large})")
    if decoder in _DECODED_BY_PYTHON and width * height > MAX_PIXELS_IN_PYTHON:
        raise BadImageError(f"{too_large} in a slow form; convert it to PNG)")


def _check_scans(data: bytes, image: ImageFile) -> None:
    start = image.fp.tell()  # type: ignore[union-attr]  # Pillow stops reading behind the first scan's header
    # inside compressed data 0xFF is always followed by 0x00: these two bytes are markers, "end" and "another scan"
    if data.count(b"\xff\xda", start, data.find(b"\xff\xd9", start)) >= MAX_SCANS:
        raise BadImageError(f"the image is made to be slow (a JPEG of more than {MAX_SCANS} scans)")


def _check_no_raw(image: Image.Image) -> None:
    """Raise for a RAW file: a TIFF whose first image is a small preview, which must not stand for the photograph."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    preview = int(tags.get(_TIFF_NEW_SUBFILE_TYPE, 0)) & 1 and _TIFF_SUB_IFDS in tags
    if preview or _TIFF_DNG_VERSION in tags:
        raise BadImageError("a camera's RAW file is not supported; develop it to JPEG")


def _note_frames(form: Format, image: ImageFile) -> list[str]:
    """Note that a file holds several frames or pages; the previews in a telephone's JPEG do not count."""
    try:
        if not getattr(image, "is_animated", False):
            return []
    except Exception:  # a damaged second frame, which nobody asked for
        return []
    # a GIF and a TIFF do not state how many: counting would read them all, and files are made with millions
    count = "several" if form in ("GIF", "TIFF") else image.n_frames  # type: ignore[attr-defined]
    return [f"first of {count} frames"]


def _orientation(image: Image.Image, notes: list[str]) -> Image.Transpose | None:
    """Find what turns the image upright. Damaged EXIF data is passed over, as every viewer does."""
    if not any(key in image.info for key in _EXIF_KEYS):
        return None
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow's parser of TIFF directories raises a dozen kinds
        notes.append("EXIF data ignored (damaged)")
        return None


def _to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    if image.mode == "RGB" and "icc_profile" not in image.info and "transparency" not in image.info:
        return image
    from rice_lib.contract.colour import to_rgb

    return to_rgb(image, notes)


def _reason(error: Exception) -> str:
    """Put a decoder's error in a person's words."""
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    if re.search("truncated|not enough|unexpected end|end of (file|data)|EOF|no more data", said, re.IGNORECASE):
        return "the image is truncated (an interrupted copy or download?)"
    if isinstance(error, MemoryError):
        return "the image is too large for this machine's memory"
    if "MAX_TEXT" in said:  # of a PNG file, see PIL.PngImagePlugin
        return "the image is damaged (text or colour profile unpack to more than a MiB: a decompression bomb)"
    if "not identified by this driver" in said:
        return "the image is damaged (it begins like one, and holds no picture)"
    return f"the image is damaged ({said})"
