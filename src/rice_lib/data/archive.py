"""Unpack the images of a zip from an unknown source: below the target folder alone, and no more than so many bytes.

What is no image stays packed. An image is written as a plain file, whatever the archive says it is.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path
from rice_lib.data.listing import class_root, is_image_name

MAX_FILE_BYTES = 64 * 1024**2
MAX_TOTAL_BYTES = 16 * 1024**3


def list_entries(file: Path, classes: Sequence[str] | None = None) -> dict[str, zipfile.ZipInfo]:
    """List an archive's images by their places below the class root (POSIX); `classes` as for `listing.class_root`.

    Raises `RiceError` where it is missing, damaged, would unpack to too much, or holds no images of classes.
    """
    with _open(file) as archive:
        infos = archive.infolist()
    for info in infos:
        info.filename = info.filename.replace("\\", "/")  # as Windows writes them
    images = [info for info in infos if is_image_name(info.filename)]
    largest, total = max((info.file_size for info in images), default=0), sum(info.file_size for info in images)
    if largest > MAX_FILE_BYTES or total > MAX_TOTAL_BYTES:
        most = f"at most {MAX_FILE_BYTES:,} and {MAX_TOTAL_BYTES:,} are unpacked"
        raise RiceError(f"{file}: unsafe, an image of {largest:,} bytes, {total:,} in all ({most})")
    if not images:
        raise RiceError(f"{file}: no images in it")
    # what lies outside the one folder that holds the class folders is left out
    root = class_root([info.filename for info in images], str(file), classes)
    places = [(PurePosixPath(info.filename), info) for info in images]
    return {name.relative_to(root).as_posix(): info for name, info in places if name.is_relative_to(root)}


def extract(file: Path, entries: Mapping[str, zipfile.ZipInfo], places: Iterable[str], folder: Path) -> None:
    """Unpack the images of `list_entries` at `places` below `folder`; shows progress.

    Raises `RiceError` where one would land outside, the archive is damaged or encrypted, or a file cannot be written.
    """
    with _open(file) as archive:
        for place in tqdm(list(places), desc="unpack", unit="file", delay=2, mininterval=1, leave=False):
            target = folder / place
            if not target.resolve().is_relative_to(folder.resolve()):
                raise RiceError(f"{file}: unsafe, entry {place[:100]!r} leads elsewhere")
            try:
                with atomic_path(target) as temporary:
                    temporary.write_bytes(archive.read(entries[place]))
            except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # the last: encrypted
                raise RiceError(f"{file}: cannot be unpacked at {place!r} ({error}); get it again") from None


def _open(file: Path) -> zipfile.ZipFile:
    if file.is_dir():
        raise RiceError(f'{file}: a folder, not a zip; for a folder set data.source to "folder"')
    if not file.is_file():  # opening a named pipe would wait for its writer
        raise RiceError(f"{file}: {'not a regular file' if file.exists() else 'no such file'}; name a zip of images")
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise RiceError(f"{file}: not a complete zip archive ({error})") from None
