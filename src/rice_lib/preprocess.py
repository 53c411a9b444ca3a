"""The one image contract: how the bytes of an image file become the pixels that every model sees.

Training, evaluation, ONNX, TensorRT, Triton and the command line all call `decode`; none has a resize of its own. What
comes out is uint8 RGB `[224, 224, 3]`; the step from there to normalised floats lives inside the model (in the ONNX
graph, too), so a client can never get it wrong.

The contract: the first frame, upright by its EXIF tag, as 8-bit RGB (transparency laid on black, the colour of the
training images' ground), padded with black to a square, then resized by Pillow's antialiased bilinear filter.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from rice_lib.errors import RiceError

IMAGE_SIZE = 224
"""Side in pixels of the square that the models see."""

NORMALISE_MEAN = 127.5
NORMALISE_STD = 127.5
"""`(pixel - 127.5) / 127.5`: mean and std 0.5 on [0, 1], as `google/vit-base-patch16-224-in21k` was trained with."""

MAX_PIXELS = 128 * 1024 * 1024
"""Images with more pixels than this are refused before a pixel is decoded (a decompression bomb costs nothing)."""

SUFFIXES = (".jpg", ".jpeg", ".png")
"""What is looked for in a folder. A file named outright may be any format that Pillow reads."""


class BadImageError(RiceError):
    """A file that is not an image we can read; the message is the reason, without the file's name."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, status=1)


def decode(source: bytes | str | Path, size: int = IMAGE_SIZE) -> np.ndarray:
    """Decode an image file (its bytes, or its path) under the image contract.

    Returns:
        uint8 RGB array of shape `[size, size, 3]`.

    Raises:
        BadImageError: the file is missing, empty, truncated, too large or not an image; the message says which.
    """
    image = open_image(source)
    return np.asarray(to_square(image, size))


def open_image(source: bytes | str | Path) -> Image.Image:
    """Open and fully decode an image as upright 8-bit RGB at its own size; raises `BadImageError`."""
    data = source if isinstance(source, bytes) else _read(Path(source))
    if not data:
        raise BadImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise BadImageError(f"the image is too large ({width} x {height} pixels)")
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise BadImageError("not an image in a format that can be read") from None
    except Image.DecompressionBombError:
        raise BadImageError("the image is too large (a decompression bomb)") from None
    except BadImageError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever their format's parser happens to raise
        raise BadImageError(
            f"the image is damaged ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from None


def to_square(image: Image.Image, size: int = IMAGE_SIZE) -> Image.Image:
    """Pad an RGB image with black to a square, centred, and resize it to `size` x `size` (antialiased bilinear)."""
    side = max(image.size)
    if image.size != (side, side):
        square = Image.new("RGB", (side, side))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    return image if side == size else image.resize((size, size), Image.Resampling.BILINEAR)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BadImageError("no such file") from None
    except IsADirectoryError:
        raise BadImageError("is a folder, not a file") from None
    except OSError as error:
        raise BadImageError(f"cannot be read ({error.strerror})") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB from any mode: 16-bit grey is scaled (not clipped), transparency is laid on black."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        grey = np.asarray(image).astype(np.float32) / 257.0
        return Image.fromarray(grey.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(np.asarray(image).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return image.convert("RGB")
