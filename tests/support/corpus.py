"""Every kind of file that a person may hand to the prediction command, good and bad, each with what must come of it.

`write_corpus` fills a folder; `sample_images` are the valid files of each format that the fuzzing starts from.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from support.profiles import ADOBE_RGB, cmyk_profile, rgb_profile

Transpose = Image.Transpose


@dataclass(frozen=True)
class Case:
    """A file, and what is to come of it: predicted with these notes, or failed for a reason that `error` matches."""

    path: str
    error: str | None = None
    notes: tuple[str, ...] = ()


def drawn(width: int, height: int) -> np.ndarray:
    """A grain on black with fine texture: uint8 `[height, width, 3]`, of integers alone, the same everywhere."""
    rows, columns = np.mgrid[:height, :width].astype(np.int64)
    across = (2 * columns - width) * 5 + (2 * rows - height) * 2
    along = (2 * rows - height) * 5 - (2 * columns - width) * 2
    grain = across**2 * 4 + along**2 < (2 * min(width, height)) ** 2 * 4
    texture = (rows * 7919 + columns * 104729 + rows * columns * 31) % 61
    colour = np.stack([180 + texture, 175 + texture, 190 + texture], axis=-1)
    background = np.stack([texture // 8, texture // 9, texture // 7], axis=-1)
    return np.where(grain[..., None], colour, background).astype(np.uint8)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    """An image file's bytes."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@cache
def ordinary() -> dict[str, bytes]:
    """8-bit JPEG and PNG files without anything special: what the image contract may never change for."""
    colour = Image.fromarray(drawn(250, 250))
    wide = Image.fromarray(drawn(640, 427))
    return {
        "jpeg.jpg": encoded(colour, "JPEG"),
        "best.jpg": encoded(colour, "JPEG", quality=95, subsampling=0),
        "progressive.jpg": encoded(colour, "JPEG", progressive=True),
        "grey.jpg": encoded(colour.convert("L"), "JPEG"),
        "wide.jpg": encoded(wide, "JPEG"),
        "tall.jpg": encoded(wide.transpose(Transpose.ROTATE_90), "JPEG", quality=90),
        "rgb.png": encoded(colour, "PNG"),
        "grey.png": encoded(colour.convert("L"), "PNG"),
        "palette.png": encoded(colour.quantize(64, dither=Image.Dither.NONE), "PNG"),
        "exact.png": encoded(Image.fromarray(drawn(224, 224)), "PNG"),
        "small.png": encoded(Image.fromarray(drawn(50, 81)), "PNG"),
        "strip.png": encoded(Image.fromarray(drawn(3000, 20)), "PNG"),
        "narrow.png": encoded(Image.fromarray(drawn(7, 2777)), "PNG"),
        "large.png": encoded(Image.fromarray(drawn(1501, 2203)), "PNG"),
        "wide224.png": encoded(Image.fromarray(drawn(224, 100)), "PNG"),
    }


def exif(orientation: int) -> bytes:
    """EXIF data that says which way up the image is."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *extra: bytes, packed: bool = False) -> bytes:
    """A PNG put together by hand: `rows` with a filter byte each (`packed`: already compressed), `extra` chunks."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = rows if packed else zlib.compress(rows)
    chunks = (png_chunk(b"IHDR", header), *extra, png_chunk(b"IDAT", data), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_chunk(name: bytes, data: bytes) -> bytes:
    """A chunk with its checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff(width: int, height: int, bits: int, pixels: bytes, *, white_is_zero: bool = False) -> bytes:
    """An uncompressed grey TIFF put together by hand (TIFF 6.0): 12 or 16 bits, as Pillow cannot write it."""
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, 0 if white_is_zero else 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(pixels)),
    ]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory + bytes(4)


@cache
def sample_images() -> dict[str, bytes]:
    """A small valid file of every format, and of its main variants."""
    colour = Image.fromarray(drawn(48, 40))
    moving = [colour, colour.rotate(20), colour.rotate(40)]
    animated = {"save_all": True, "append_images": moving[1:]}
    clear = colour.convert("RGBA")
    clear.putalpha(colour.convert("L"))
    deep = Image.fromarray(drawn(48, 40)[..., 0].astype(np.uint16) * 257)
    files = {
        "plain.jpg": encoded(colour, "JPEG"),
        "progressive.jpg": encoded(colour, "JPEG", progressive=True),
        "cmyk.jpg": encoded(colour.convert("CMYK"), "JPEG"),
        "exif.jpg": encoded(colour, "JPEG", exif=exif(6)),
        "profile.jpg": encoded(colour, "JPEG", icc_profile=rgb_profile(ADOBE_RGB, 2.2)),
        "plain.png": encoded(colour, "PNG"),
        "palette.png": encoded(colour.quantize(16), "PNG", transparency=3),
        "deep.png": encoded(deep, "PNG"),
        "clear.png": encoded(clear, "PNG"),
        "animated.png": encoded(colour, "PNG", **animated),
        "plain.gif": encoded(colour, "GIF"),
        "animated.gif": encoded(colour, "GIF", **animated),
        "plain.bmp": encoded(colour, "BMP"),
        "palette.bmp": encoded(colour.quantize(16), "BMP"),
        "plain.tif": encoded(colour, "TIFF"),
        "lzw.tif": encoded(colour, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": encoded(colour, "TIFF", compression="jpeg"),
        "deflate.tif": encoded(colour, "TIFF", compression="tiff_adobe_deflate"),
        "fax.tif": encoded(colour.convert("1"), "TIFF", compression="group4"),
        "pages.tif": encoded(colour, "TIFF", **animated),
        "big.tif": encoded(colour, "TIFF", big_tiff=True),
        "deep.tif": encoded(deep, "TIFF"),
        "plain.ppm": encoded(colour, "PPM"),
        "plain.pgm": encoded(deep, "PPM"),
        "text.ppm": b"P3 2 2 9\n" + b"9 0 0 0 9 0 0 0 9 9 9 9\n",
        "plain.webp": encoded(colour, "WEBP"),
        "lossless.webp": encoded(clear, "WEBP", lossless=True),
        "animated.webp": encoded(colour, "WEBP", **animated),
    }
    for name, form, options in (("plain.jp2", "JPEG2000", {}), ("plain.avif", "AVIF", {"speed": 10})):
        try:
            files[name] = encoded(colour, form, **options)
        except (KeyError, OSError):  # this build of Pillow has no such format
            continue
    return files


@cache
def foreign_files() -> dict[str, tuple[bytes, str]]:
    """Files that are no image we read: bytes, and what the reason must match."""
    page = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>no</body></html>"
    grain = encoded(Image.fromarray(drawn(250, 250)), "JPEG")
    picture = encoded(Image.fromarray(drawn(250, 250)), "PNG")
    return {
        "empty.jpg": (b"", "^the file is empty$"),
        "truncated.jpg": (grain[: len(grain) // 2], "truncated"),
        "truncated.png": (picture[: len(picture) // 2], "truncated"),
        "header only.jpg": (grain[:20], "truncated|damaged"),
        "two bytes.jpg": (grain[:2], r"begins with '\\xff\\xd8'"),
        "zeros.jpg": (bytes(10_000), r"begins with '\\x00"),
        "page.jpg": (page, "^not an image in a format that can be read: it begins with '<!DOCTYPE html>"),
        "page with a mark.jpg": (b"\xef\xbb\xbf \n" + page, "<!DOCTYPE html>"),
        "error.jpg": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "begins with '<.xml"),
        "text.jpg": (b"this is no image\n" * 50, "begins with 'this is no image"),
        "unicode.jpg": ("Reis, s\u00fc\u00df \u7c73\n".encode() * 50, "begins with 'Reis, "),
        "pointer.jpg": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "begins with 'version https://git-lfs",
        ),
        "paper.pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "begins with '%PDF-1.7"),
        "drawing.svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "begins with '<.xml"),
        "photo.heic": (
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50),
            "^HEIC needs pillow-heif, not installed here|^the image is (damaged|truncated)",
        ),
        "film.mp4": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(50), "ftypisom"),
        "film.mov": (b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + bytes(50), "ftypqt"),
        "film.avi": (b"RIFF\x10\0\0\0AVI LIST" + bytes(50), "AVI LIST"),
        "archive.zip": (b"PK\3\4\x14\0\0\0" + bytes(50), "begins with 'PK"),
        "table.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(50), r"begins with '\\xd0\\xcf"),
        "archive.tar.gz": (b"\x1f\x8b\x08\0" + bytes(50), r"begins with '\\x1f\\x8b"),
        "canon.cr2": (b"II*\0\x10\0\0\0CR\x02\0" + bytes(50), r"CR\\x02"),
        "fuji.raf": (b"FUJIFILMCCD-RAW 0201" + bytes(50), "FUJIFILMCCD-RAW"),
        "canon.cr3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(50), "crx"),
        "adobe.dng": (_dng(), "RAW"),
        "float.tif": (encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), "convert it to 8 or 16 bits"),
        "lab.tif": (encoded(Image.new("LAB", (9, 9)), "TIFF"), "convert it to RGB"),
        "layers.psd": (b"8BPS\0\1" + bytes(50), "8BPS"),
        "new.jxl": (b"\xff\x0a" + bytes(50), r"begins with '\\xff\\n"),
        "noise.jpg": (np.random.default_rng(3).bytes(5000), "format that can be read"),
        "program.jpg": (b"\x7fELF\2\1\1" + bytes(50), "ELF"),
    }


def _dng() -> bytes:
    """A RAW file: a TIFF whose first image is a preview."""
    return encoded(Image.fromarray(drawn(48, 40)), "TIFF", tiffinfo={50706: b"\1\4\0\0"})


@cache
def bombs() -> dict[str, tuple[bytes, str]]:
    """Small files that would fill the memory, or take minutes."""
    gif = encoded(Image.new("P", (4, 4)), "GIF")
    inside = gif.index(b",") + 5
    zeros = zlib.compress(bytes(40_000_000), 9)
    text = png_chunk(b"zTXt", b"Comment\0\0" + zeros)
    profile = png_chunk(b"iCCP", b"icc\0\0" + zeros)
    scan = progressive_scan()
    webp = encoded(Image.new("RGB", (16, 16)), "WEBP", lossless=True)
    vp8x = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\x3f\0\xff\x3f\0"
    webp = b"RIFF" + struct.pack("<I", len(webp) - 8 + len(vp8x)) + b"WEBP" + vp8x + webp[12:]
    return {
        "30000 x 30000.png": (png(30_000, 30_000, 8, 2, zeros, packed=True), r"too large \(30,000 x 30,000 pixels\)"),
        "100000 x 10.png": (png(100_000, 10, 8, 0, bytes(10 * 100_001)), r"too large \(100,000 x 10 pixels\)"),
        "10 x 100000.png": (png(10, 100_000, 8, 0, bytes(11 * 100_000)), r"too large \(10 x 100,000 pixels\)"),
        "40 x 65535.gif": (gif[:6] + b"\x28\0\xff\xff" + gif[10:], r"too large \(40 x 65,535 pixels\)"),
        "65500 x 65500.jpg": (_resized_jpeg(65_500, 65_500), r"too large \(65,500 x 65,500 pixels\)"),
        "bomb.gif": (gif[:6] + b"\xff\xff\xff\xff" + gif[10:], "too large"),
        "frame.gif": (gif[:inside] + b"\xff\xff\xff\xff" + gif[inside + 4 :], "too large"),
        "bomb.tif": (tiff(2**16 - 1, 2**16 - 1, 16, bytes(64)), "too large"),
        "bomb.bmp": (_resized_bmp(60_000, 60_000), "too large"),
        "bomb.ppm": (b"P6 60000 60000 255\n" + bytes(100), "too large"),
        "slow.ppm": (b"P6 9000 9000 254\n" + bytes(100), "slow form"),
        "bomb.webp": (webp, "too large|damaged"),
        "ztxt.png": (png(4, 4, 8, 0, bytes(20), text), "decompression bomb"),
        "iccp.png": (png(4, 4, 8, 0, bytes(20), profile), "decompression bomb"),
        "scans.jpg": (scan, "made to be slow"),
    }


def _resized_jpeg(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _resized_bmp(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("RGB", (16, 16)), "BMP"))
    data[18:26] = struct.pack("<II", width, height)
    return bytes(data)


def progressive_scan(scans: int = 3000) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = encoded(Image.fromarray(drawn(250, 250)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


@cache
def good_files() -> dict[str, tuple[bytes, tuple[str, ...]]]:
    """Files that are predicted: bytes, and the notes that must come with them."""
    colour = Image.fromarray(drawn(250, 250))
    frames = {"animated.png": 3, "animated.gif": "several", "pages.tif": "several", "animated.webp": 3}
    good: dict[str, tuple[bytes, tuple[str, ...]]] = {
        name: (data, (f"first of {frames[name]} frames",) if name in frames else ())
        for name, data in (sample_images() | ordinary()).items()
    }
    depth = encoded(colour, "MPO", save_all=True, append_images=[colour.resize((60, 60))])
    broken = {"icc_profile": b"this is no profile" * 20}
    return good | {
        "1 x 1.png": (encoded(Image.new("RGB", (1, 1), "white"), "PNG"), ()),
        "1 x 1.gif": (encoded(Image.new("P", (1, 1)), "GIF"), ()),
        "16000 x 10.png": (encoded(Image.new("L", (16_000, 10), 200), "PNG"), ()),
        "10 x 16000.png": (encoded(Image.new("L", (10, 16_000), 200), "PNG"), ()),
        "telephone.jpg": (depth, ()),
        "a png.jpg": (encoded(colour, "PNG"), ()),
        "no suffix": (encoded(colour, "JPEG"), ()),
        "broken profile.jpg": (encoded(colour, "JPEG", **broken), ("colour profile ignored (damaged)",)),
        "press profile.jpg": (
            encoded(colour, "JPEG", icc_profile=cmyk_profile()),
            ("colour profile ignored (made for another kind of image)",),
        ),
    }


NAMES = [
    "with space.jpg",
    "new\nline.jpg",
    "tab\tand\x1b[31mred.jpg",
    "s\u00fc\u00df \u7c73 \U0001f33e.jpg",
    os.fsdecode(b"latin-\xe9\xff.jpg"),
    "-dash.jpg",
    "--output.jpg",
    "quo\"te's,;.jpg",
    "n" * 251 + ".jpg",
]
"""Names that files may have on Linux."""


def write_corpus(folder: Path) -> list[Case]:
    """Write all of it; good and bad in turn, in the order of the list."""
    folder.mkdir(parents=True)
    good = [Case(_write(folder / name, data), notes=notes) for name, (data, notes) in good_files().items()]
    grain = encoded(Image.fromarray(drawn(250, 250)), "JPEG")
    (folder / "names").mkdir()
    good += [Case(_write(folder / "names" / name, grain)) for name in NAMES]
    bad = [Case(_write(folder / name, data), why) for name, (data, why) in (foreign_files() | bombs()).items()]
    bad += _special(folder, grain)
    mixed: list[Case] = []
    for k in range(max(len(good), len(bad))):
        mixed += good[k : k + 1] + bad[k : k + 1]
    return mixed


def _write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def _special(folder: Path, grain: bytes) -> list[Case]:
    """What is no ordinary file, or cannot be read."""
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.open(folder, os.O_RDONLY)  # a socket's name has a limit of a hundred bytes
        bound.bind(f"/proc/self/fd/{here}/socket.jpg")
        os.close(here)
    (folder / "a.jpg").symlink_to("b.jpg")
    (folder / "b.jpg").symlink_to("a.jpg")
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    with (folder / "huge.jpg").open("wb") as huge:
        huge.write(grain)
        huge.truncate(600 * 2**20)  # sparse: takes no room
    cases = [
        Case(str(folder / "pipe.jpg"), "^is a named pipe, not a file$"),
        Case(str(folder / "socket.jpg"), "^is a socket, not a file$"),
        Case("/dev/zero", "^is a device, not a file$"),
        Case(str(folder / "a.jpg"), "too many levels of symbolic links"),
        Case(str(folder / "dangling.jpg"), "^a link to a file that is not there$"),
        Case(str(folder / "gone.jpg"), "^no such file$"),
        Case(str(folder / "page.jpg" / "inside.jpg"), "^no such file"),
        Case(str(folder / ("n" * 300)), "file name too long"),
        Case(str(folder / "huge.jpg"), "too large to be one image"),
    ]
    if os.geteuid() != 0:  # root reads everything
        (folder / "secret.jpg").write_bytes(grain)
        (folder / "secret.jpg").chmod(0)
        cases.append(Case(str(folder / "secret.jpg"), "permission denied"))
    return cases
