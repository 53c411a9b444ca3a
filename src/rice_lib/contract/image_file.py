"""What a file is, before a pixel of it is decoded: read without waiting, recognised by its first bytes.

Standard library alone.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
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


def read_file(path: str | Path, before: Callable[[int], object] = lambda _: None) -> bytes:
    """Read an ordinary file; never waits (for a pipe's writer), never touches a device.

    `before` is called with the length in bytes (at most `MAX_FILE_BYTES`) before they are read.

    Raises:
        BadImageError: there is no such file, it is not an ordinary one, too large, or cannot be read.
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
            before(about.st_size)
            return file.read(about.st_size)
    except FileNotFoundError:
        gone = os.path.islink(path)
        raise BadImageError("a link to a file that is not there" if gone else "no such file") from None
    except NotADirectoryError:
        raise BadImageError("no such file (a part of its path is a file, not a folder)") from None
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

_RAW = "a camera's RAW file is not supported; develop it to JPEG"
_CONVERT = "{} is not supported; convert it to JPEG"
_NOT = "{}, not an image"

_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (b"FUJIFILMCCD-RAW", _RAW),
    (b"IIRO", _RAW),  # Olympus
    (b"IIU\0", _RAW),  # Panasonic
    (b"8BPS", _CONVERT.format("Photoshop's PSD")),
    (b"\xff\x0a", _CONVERT.format("JPEG XL")),
    (b"\0\0\0\x0cJXL \r\n\x87\n", _CONVERT.format("JPEG XL")),
    (b"%PDF-", _NOT.format("a PDF document")),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _NOT.format("an Office document")),
    (b"PK\3\4", _NOT.format("a zip archive (or an Office document)")),
    (b"\x1f\x8b", _NOT.format("a gzip archive")),
    (b"version https://git-lfs", "a Git LFS pointer, not the image itself (git lfs pull fetches it)"),
)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}
_SAMPLE = 4096
_CONTROL = bytes(set(range(32)) - set(b"\t\n\r\f\x1b")) + b"\x7f"


def recognise(data: bytes) -> Format:
    """Name the format of an image file's bytes by its signature; a file's name says nothing.

    Raises `BadImageError` for what is none of the formats that can be read; the message says what it is instead.
    """
    for signature, form in _READABLE:
        if data.startswith(signature):
            return form
    for signature, reason in _FOREIGN:
        if data.startswith(signature):
            raise BadImageError(reason)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        raise BadImageError(_NOT.format("a video (AVI)"))
    if data[4:8] == b"ftyp":
        return _iso_media(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        if data[8:12] == b"CR\x02\0":  # Canon
            raise BadImageError(_RAW)
        return "TIFF"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if re.match(rb"P[1-6]\s+(#.*[\r\n]\s*)*\d", data[:_SAMPLE]):
        return "PPM"
    raise BadImageError(_unrecognised(data))


def _iso_media(data: bytes) -> Format:
    """Distinguish AVIF, HEIC and videos: one container, by the brands in its first box (ISO 14496-12, 4.3)."""
    end = min(int.from_bytes(data[:4], "big"), 16 + 4 * 64)
    brands = {data[8:12], *(data[start : start + 4] for start in range(16, end, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    if brands & _HEIF_BRANDS:
        return "HEIC"
    raise BadImageError(_RAW if b"crx " in brands else _NOT.format("a video (MP4 or QuickTime)"))


def _unrecognised(data: bytes) -> str:
    """Say what bytes without a known signature seem to be."""
    if not data.strip(b"\0"):
        return "nothing but zero bytes (an interrupted copy or download?)"
    if len(data) < 16 and not data.isascii():
        return "too short to be an image"
    sample = data[:_SAMPLE].removeprefix(b"\xef\xbb\xbf")
    utf16 = sample[:2] in (b"\xff\xfe", b"\xfe\xff")
    if not utf16 and sample.translate(None, _CONTROL) != sample:
        return "not an image in a format that can be read"
    text = sample.lower().lstrip()
    if not text.startswith(b"<"):
        return _NOT.format("a text file")
    if b"<svg" in text:
        return _CONVERT.format("SVG")
    html = re.search(rb"<(!doctype html|html|head|body)\b", text)
    return _NOT.format("an HTML page" if html else "an XML or HTML file")
