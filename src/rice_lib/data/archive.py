"""Unpack a zip of images from an unknown source: checked before a byte is written, and resumable.

Nothing is unpacked where one image would land outside the target, is a link, is encrypted, comes twice, or unpacks to
absurdly much; what is no image stays packed. An interrupted run resumes: a file of the right size and CRC-32 is not
written again.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path
from rice_lib.contract.decode import is_photograph
from rice_lib.data.listing import class_root, is_image_name

MAX_FILE_BYTES = 64 * 1024**2
MAX_TOTAL_BYTES = 16 * 1024**3
MAX_RATIO = 100  # JPEGs hardly shrink in a zip; deflate reaches 1,032 on a bomb
MAX_ENTRIES = 1_000_000

_PLAIN = (0, stat.S_IFREG, stat.S_IFDIR)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_RATIO_FROM = 1024**2  # a smaller file of one colour may shrink that much


@dataclass(frozen=True)
class ArchiveImages:
    """A checked archive's images: place below the class root (POSIX) to entry; `digest` differs by content."""

    file: Path
    entries: Mapping[str, zipfile.ZipInfo]
    digest: str


def inspect(file: Path, classes: Sequence[str] | None = None) -> ArchiveImages:
    """Check an archive's directory, `classes` as for `listing.class_root`.

    Raises `RiceError` where it is missing, damaged, unsafe, or holds no images of classes.
    """
    with _open(file) as archive:
        infos = archive.infolist()
    if len(infos) > MAX_ENTRIES:
        raise RiceError(f"{file}: unsafe, {len(infos):,} entries (at most {MAX_ENTRIES:,})")
    for info in infos:  # Windows writes backslashes, and zipfile cuts a name at a NUL
        info.filename = info.orig_filename.replace("\\", "/")
    # the rest is never unpacked, whatever it is
    images = [info for info in infos if not info.is_dir() and is_photograph(PurePosixPath(info.filename).name)]
    for info in images:
        if fault := _fault(info):
            raise RiceError(f"{file}: unsafe, entry {info.filename[:100]!r} {fault}")
    images = [info for info in images if is_image_name(info.filename)]
    size, total = file.stat().st_size, sum(info.file_size for info in images)
    if total > MAX_TOTAL_BYTES or (total > _RATIO_FROM and total > MAX_RATIO * size):
        raise RiceError(f"{file}: unsafe, {size:,} bytes would unpack to {total:,} (a bomb?)")
    if not images:
        raise RiceError(f"{file}: no images in it")
    # what lies outside the one folder that holds the class folders is left out
    root = class_root([info.filename for info in images], str(file), classes)
    entries, seen = dict[str, zipfile.ZipInfo](), set[str]()
    for info in images:
        if (name := PurePosixPath(info.filename)).is_relative_to(root):
            place = name.relative_to(root).as_posix()
            # by case too: on macOS and Windows the second would overwrite the first
            if place.casefold() in seen:
                raise RiceError(f"{file}: unsafe, entry {info.filename[:100]!r} comes twice")
            seen.add(place.casefold())
            entries[place] = info
    lines = sorted(f"{place} {info.file_size} {info.CRC:08x}\n" for place, info in entries.items())
    return ArchiveImages(file, entries, hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest())


def extract(images: ArchiveImages, places: Iterable[str], target: Path) -> int:
    """Unpack the images at `places` below `target` that are not there yet; returns how many were written.

    Raises `RiceError` where the archive is damaged, or there is no room; the files written before are complete.
    """
    written = 0
    with _open(images.file) as archive:
        for place in tqdm(list(places), desc="unpack", unit="file", delay=2, mininterval=1, leave=False):
            info, file = images.entries[place], target / place
            if file.is_file() and file.stat().st_size == info.file_size and zlib.crc32(file.read_bytes()) == info.CRC:
                continue
            try:
                with atomic_path(file) as temporary:
                    temporary.write_bytes(archive.read(info))
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise RiceError(f"{images.file}: damaged at {info.filename!r} ({error}); get it again") from None
            except OSError as error:
                raise RiceError(f"{file}: cannot be written ({error.strerror})", status=1) from None
            written += 1
    return written


def _open(file: Path) -> zipfile.ZipFile:
    if file.is_dir():
        raise RiceError(f'{file}: a folder, not a zip; for a folder set data.source to "folder"')
    if not file.is_file():  # opening a named pipe would wait for its writer
        raise RiceError(f"{file}: {'not a regular file' if file.exists() else 'no such file'}; name a zip of images")
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise RiceError(f"{file}: not a complete zip archive ({error})") from None
    except OSError as error:
        raise RiceError(f"{file}: cannot be read ({error.strerror})") from None


def _fault(info: zipfile.ZipInfo) -> str | None:
    """Say what makes an entry unfit to be unpacked; None for nothing."""
    name = info.filename
    parts = PurePosixPath(name).parts
    ratio = info.file_size // max(info.compress_size, 1)
    faults = {
        "has an absolute name": name.startswith("/") or re.match(r"[A-Za-z]:", name),
        "has a name that leads elsewhere": ".." in parts or "\0" in name,
        "has a name too long for a file system": any(len(os.fsencode(p)) > 255 for p in parts) or len(name) > 1024,
        "is a link or a device, not a file": stat.S_IFMT(info.external_attr >> 16) not in _PLAIN,
        "is encrypted": info.flag_bits & 0x1,
        "is packed by an unknown method": info.compress_type not in _METHODS,
        f"would be {info.file_size:,} bytes (at most {MAX_FILE_BYTES:,})": info.file_size > MAX_FILE_BYTES,
        f"would unpack to {ratio:,} times its size (a bomb?)": info.file_size > _RATIO_FROM and ratio > MAX_RATIO,
    }
    return next((fault for fault, present in faults.items() if present), None)
