"""What a file is, before a pixel of it is decoded: read without waiting, recognised by its first bytes.

Standard library alone.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Literal

Format = Literal["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIC"]

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pbm"),
    *(".jp2", ".j2k", ".avif", ".heic", ".heif"),
)
"""Names of files that look like images: what is looked for in a folder. A file named outright may have any name."""

MAX_FILE_BYTES = 512 * 1024 * 1024
"""A larger file is not read: it is more than any image of `rice_lib.contract.decode.MAX_PIXELS` takes."""


class BadImageError(ValueError):
    """A file that is not an image we can read; the message is the reason, without the file's name."""


_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}

_OPEN_FLAGS = os.O_RDONLY
for _flag in ("O_BINARY", "O_CLOEXEC", "O_NOCTTY", "O_NONBLOCK"):  # each is missing on some system
    _OPEN_FLAGS |= getattr(os, _flag, 0)


def read_file(path: str | Path) -> bytes:
    """Read an ordinary file; never waits (for a pipe's writer), never touches a device.

    Raises `BadImageError` where there is no such file, it is not an ordinary one, too large, or cannot be read.
    """
    try:
        # before the opening, for opening alone does things to a device; and after, in case it was changed in between
        _check_regular(os.stat(path).st_mode)
        with os.fdopen(os.open(path, _OPEN_FLAGS), "rb") as file:
            about = os.fstat(file.fileno())
            _check_regular(about.st_mode)
            if about.st_size > MAX_FILE_BYTES:
                size = f"{about.st_size / 2**20:,.0f} MiB; the most is {MAX_FILE_BYTES // 2**20} MiB"
                raise BadImageError(f"the file is too large to be one image ({size})")
            return file.read(about.st_size)
    except (FileNotFoundError, NotADirectoryError):
        gone = os.path.islink(path)
        raise BadImageError("a link to a file that is not there" if gone else "no such file") from None
    except OSError as error:
        raise BadImageError(f"cannot be read ({(error.strerror or type(error).__name__).lower()})") from None
    except BadImageError:
        raise
    except ValueError:  # a NUL, or characters that no encoding of names has
        raise BadImageError("not a name that a file can have") from None


def _check_regular(mode: int) -> None:
    kind = stat.S_IFMT(mode)
    if kind != stat.S_IFREG:
        raise BadImageError(f"is a {_KINDS.get(kind, 'device')}, not a file")


_READABLE: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
)
"""Signatures that no other format shares; `recognise` knows the other formats."""

_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}
SHOWN_BYTES = 32
"""Of a file that is no image, in its error: enough to recognise HTML, a PDF, an archive or a video."""


def recognise(data: bytes) -> Format:
    """Name the format of an image file's bytes by its signature; a file's name says nothing.

    Raises `BadImageError` for what is none of the formats that can be read; the message shows how the file begins.
    """
    for signature, form in _READABLE:
        if data.startswith(signature):
            return form
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and (coded := _coded_form(data)) is not None:
        return coded
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") and data[8:12] != b"CR\x02\0":  # Canon's RAW
        return "TIFF"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if re.match(rb"P[1-6]\s+(#.*[\r\n]\s*)*\d", data[:4096]):
        return "PPM"
    raise BadImageError(f"not an image in a format that can be read: it begins with {repr(data[:SHOWN_BYTES])[1:]}")


def _coded_form(data: bytes) -> Format | None:
    """Distinguish AVIF, HEIC and videos (None): one container, by the brands in its first box (ISO 14496-12, 4.3)."""
    end = min(int.from_bytes(data[:4], "big"), 16 + 4 * 64)
    brands = {data[8:12], *(data[start : start + 4] for start in range(16, end, 4))}
    return "AVIF" if brands & _AVIF_BRANDS else "HEIC" if brands & _HEIF_BRANDS else None
