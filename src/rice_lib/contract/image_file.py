"""What a file is, before a pixel of it is decoded: opened without ever waiting, recognised by its first bytes.

`open_file` opens what is an ordinary file and nothing else; `recognise` names the format of its bytes, or says in a
person's words what they are instead. Standard library alone.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import BinaryIO, Literal

Format = Literal["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"]

MAX_FILE_BYTES = 512 * 1024 * 1024
"""A larger file is refused before it is read: more than any image of `MAX_PIXELS` takes
(`rice_lib.contract.decode`)."""

MAX_COUNTED_FRAMES = 10_000
"""Where counting frames ends; a file can be made to hold millions of empty ones."""


class BadImageError(Exception):
    """A file that is not an image we can read; the message is the reason, without the file's name."""


_NO_REGULAR_FILE = (
    (stat.S_ISDIR, "is a folder, not a file"),
    (stat.S_ISFIFO, "is a named pipe, not a file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
)

_OPEN_FLAGS = os.O_RDONLY
for _flag in ("O_BINARY", "O_CLOEXEC", "O_NOCTTY", "O_NONBLOCK"):  # each is missing on some system
    _OPEN_FLAGS |= getattr(os, _flag, 0)


def open_file(path: str | Path) -> tuple[BinaryIO, int]:
    """Open an ordinary file for reading; never waits (for a pipe's writer), never touches a device.

    Returns:
        the open file, and its length in bytes (at most `MAX_FILE_BYTES`).

    Raises:
        BadImageError: there is no such file, it is no ordinary one, too large, or cannot be read.
    """
    try:
        # before the opening, for opening alone does things to a device; and after, in case it was changed in between
        _check_regular(os.stat(path).st_mode)
        file = os.fdopen(os.open(path, _OPEN_FLAGS), "rb")
    except FileNotFoundError:
        gone = os.path.islink(path)
        raise BadImageError("a link to a file that is not there" if gone else "no such file") from None
    except NotADirectoryError:
        raise BadImageError("no such file (a part of its path is a file, not a folder)") from None
    except PermissionError:
        raise BadImageError("cannot be read (permission denied)") from None
    except OSError as error:
        raise BadImageError(f"cannot be read ({(error.strerror or type(error).__name__).lower()})") from None
    except ValueError:  # a NUL, or characters that no encoding of names has
        raise BadImageError("not a name that a file can have") from None
    try:
        about = os.fstat(file.fileno())
        _check_regular(about.st_mode)
        if about.st_size > MAX_FILE_BYTES:
            size = f"{about.st_size / 2**20:,.0f} MiB; the most is {MAX_FILE_BYTES // 2**20} MiB"
            raise BadImageError(f"the file is too large to be one image ({size})")
    except BaseException:
        file.close()
        raise
    return file, about.st_size


def read_open(file: BinaryIO, length: int) -> bytes:
    """The first `length` bytes of what `open_file` opened; raises `BadImageError` where they cannot be read."""
    try:
        return file.read(length)
    except OSError as error:
        raise BadImageError(f"cannot be read ({(error.strerror or type(error).__name__).lower()})") from None


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise BadImageError(next((why for test, why in _NO_REGULAR_FILE if test(mode)), "is not an ordinary file"))


_READABLE: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
)
"""Signatures that no other format shares; `recognise` tells the rest."""

_RAW = "a camera's RAW file is not supported; develop it to JPEG"
_CONVERT = "{} is not supported; convert it to JPEG"
_NOT = "{}, not an image"

_FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    # offset, signature, what it is. Images first
    (8, b"CR\x02\0", _RAW),
    (0, b"FUJIFILMCCD-RAW", _RAW),
    (0, b"IIRO", _RAW),
    (0, b"IIRS", _RAW),
    (0, b"MMOR", _RAW),
    (0, b"IIU\0", _RAW),
    (0, b"\0MRM", _RAW),
    (0, b"FOVb", _RAW),
    (0, b"8BPS", _CONVERT.format("Photoshop's PSD")),
    (0, b"gimp xcf", _CONVERT.format("GIMP's XCF")),
    (0, b"\xff\x0a", _CONVERT.format("JPEG XL")),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", _CONVERT.format("JPEG XL")),
    (0, b"II\xbc\x01", _CONVERT.format("JPEG XR")),
    (0, b"\0\0\1\0", _CONVERT.format("an icon (ICO)")),
    (0, b"icns", _CONVERT.format("an icon (ICNS)")),
    (0, b"qoif", _CONVERT.format("QOI")),
    (0, b"DDS ", _CONVERT.format("DDS")),
    (0, b"v/1\x01", _CONVERT.format("OpenEXR")),
    (0, b"#?RADIANCE", _CONVERT.format("Radiance HDR")),
    (0, b"AT&TFORM", _CONVERT.format("DjVu")),
    (0, b"%!PS", _CONVERT.format("PostScript")),
    (0, b"\xc5\xd0\xd3\xc6", _CONVERT.format("PostScript")),
    (0, b"SIMPLE  =", _CONVERT.format("FITS")),
    (128, b"DICM", _CONVERT.format("DICOM")),
    # and what is none
    (0, b"%PDF-", _NOT.format("a PDF document")),
    (0, b"{\\rtf", _NOT.format("an RTF document")),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _NOT.format("an Office document")),
    (0, b"PK\3\4", _NOT.format("a zip archive (or an Office document)")),
    (0, b"PK\5\6", _NOT.format("an empty zip archive")),
    (0, b"\x1f\x8b", _NOT.format("a gzip archive")),
    (0, b"BZh", _NOT.format("a bzip2 archive")),
    (0, b"\xfd7zXZ\0", _NOT.format("an xz archive")),
    (0, b"\x28\xb5\x2f\xfd", _NOT.format("a Zstandard archive")),
    (0, b"7z\xbc\xaf\x27\x1c", _NOT.format("a 7-Zip archive")),
    (0, b"Rar!\x1a\7", _NOT.format("a RAR archive")),
    (257, b"ustar", _NOT.format("a tar archive")),
    (0, b"\x1a\x45\xdf\xa3", _NOT.format("a video (Matroska or WebM)")),
    (0, b"\0\0\1\xba", _NOT.format("a video (MPEG)")),
    (0, b"\0\0\1\xb3", _NOT.format("a video (MPEG)")),
    (0, b"FLV\1", _NOT.format("a video (Flash)")),
    (0, b"0&\xb2u\x8ef\xcf\x11", _NOT.format("a video (Windows Media)")),
    (4, b"moov", _NOT.format("a video (QuickTime)")),
    (4, b"mdat", _NOT.format("a video (QuickTime)")),
    (0, b"ID3", _NOT.format("a sound file (MP3)")),
    (0, b"OggS", _NOT.format("a sound or video file (Ogg)")),
    (0, b"fLaC", _NOT.format("a sound file (FLAC)")),
    (0, b"\0\5\x16\7", _NOT.format("macOS's notes on a file (AppleDouble)")),
    (0, b"\x7fELF", _NOT.format("a program")),
    (0, b"MZ\x90\0", _NOT.format("a Windows program")),
    (0, b"SQLite format 3\0", _NOT.format("a database (SQLite)")),
    (0, b"\x89HDF\r\n", _NOT.format("an HDF5 data file")),
    (0, b"\x93NUMPY", _NOT.format("a numpy array")),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the image itself (git lfs pull fetches it)"),
)

_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}
_SAMPLE = 4096
_CONTROL = bytes(set(range(32)) - set(b"\t\n\r\f\x1b")) + b"\x7f"


def recognise(data: bytes) -> Format:
    """The format of an image file's bytes, by its signature: a file's name says nothing.

    Raises:
        BadImageError: none of the formats that are read; the message says what it is instead.
    """
    for signature, form in _READABLE:
        if data.startswith(signature):
            return form
    if data[:4] == b"RIFF":
        return _riff(data)
    if data[4:8] == b"ftyp":
        return _iso_media(data)
    for offset, signature, reason in _FOREIGN:
        if data.startswith(signature, offset):
            raise BadImageError(reason)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if re.match(rb"P[1-6]\s+(#.*[\r\n]\s*)*\d", data[:_SAMPLE]):
        return "PPM"
    raise BadImageError(_unrecognised(data))


def _riff(data: bytes) -> Format:
    kind = data[8:12]
    if kind == b"WEBP":
        return "WEBP"
    names = {b"AVI ": "a video (AVI)", b"WAVE": "a sound file (WAV)"}
    raise BadImageError(_NOT.format(names.get(kind, "a RIFF file of another kind")))


def _iso_media(data: bytes) -> Format:
    """AVIF, HEIC and most videos are one container, told apart by the brands in its first box (ISO 14496-12, 4.3)."""
    end = min(int.from_bytes(data[:4], "big"), 16 + 4 * 64)
    brands = {data[8:12], *(data[start : start + 4] for start in range(16, end, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    if brands & _HEIF_BRANDS:
        raise BadImageError(_CONVERT.format("HEIC"))
    if b"crx " in brands:
        raise BadImageError(_RAW)
    if data[8:11] in (b"M4A", b"M4B"):
        raise BadImageError(_NOT.format("a sound file (MPEG-4)"))
    raise BadImageError(_NOT.format("a video (MP4 or QuickTime)"))


def _unrecognised(data: bytes) -> str:
    """What bytes without a known signature seem to be."""
    if not data.strip(b"\0"):
        return "nothing but zero bytes (an interrupted copy or download?)"
    short = len(data) < 16
    if short and not data.isascii():
        return "too short to be an image"
    sample = data[:_SAMPLE].removeprefix(b"\xef\xbb\xbf")
    if sample[:2] in (b"\xff\xfe", b"\xfe\xff") or sample.translate(None, _CONTROL) == sample:
        return _text(sample.lower().lstrip())
    return "too short to be an image" if short else "not an image in a format that can be read"


def _text(sample: bytes) -> str:
    if not sample.startswith(b"<"):
        return _NOT.format("a text file")
    if b"<svg" in sample:
        return _CONVERT.format("SVG")
    html = re.search(rb"<(!doctype html|html|head|body)\b", sample)
    return _NOT.format("an HTML page" if html else "an XML or HTML file")


def count_frames(form: Format, data: bytes, told: int) -> int:
    """How many frames (or pages) a file holds, at most `MAX_COUNTED_FRAMES` + 1.

    Args:
        form: the file's format.
        data: the whole file.
        told: what its header says, for formats whose header does.
    """
    if form == "GIF":
        told = _gif_frames(data)
    elif form == "TIFF":
        told = _tiff_pages(data)
    return min(told, MAX_COUNTED_FRAMES + 1)


def _gif_frames(data: bytes) -> int:
    """Image descriptors of a GIF (GIF89a specification, appendix B); Pillow would parse every frame's tables."""
    frames, at = 0, 13 + _colour_table(data, 10)
    while at < len(data) and frames <= MAX_COUNTED_FRAMES:
        kind = data[at]
        if kind == 0x2C:
            frames += 1
            at += 11 + _colour_table(data, at + 9)
        elif kind == 0x21:
            at += 2
        else:  # the trailer, or damage
            break
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return frames


def _colour_table(data: bytes, flags_at: int) -> int:
    flags = data[flags_at] if flags_at < len(data) else 0
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _tiff_pages(data: bytes) -> int:
    """Directories in a TIFF's chain (TIFF 6.0, section 2; 64-bit offsets in BigTIFF)."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    big = data[2:4] in (b"+\0", b"\0+")
    width, count_width, entry = (8, 8, 20) if big else (4, 2, 12)

    def number(at: int, length: int) -> int:
        return int.from_bytes(data[at : at + length], order)

    seen: set[int] = set()
    at = number(8 if big else 4, width)
    while 0 < at < len(data) and at not in seen and len(seen) <= MAX_COUNTED_FRAMES:
        seen.add(at)
        at = number(at + count_width + entry * number(at, count_width), width)
    return len(seen)
