"""Read from a file's place and name: its variety, its number, and whether the two contradict each other.

The layout is that of the public set: `<Variety>/<name>.jpg`, names such as `Arborio (1).jpg` or `basmati (2).jpg`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from rice_lib.common.classes import VARIETIES
from rice_lib.common.errors import RiceError
from rice_lib.contract.decode import is_photograph

OK = "ok"  # status of an image that may be used; any other status is the reason why it is not

_BY_NAME = {name.casefold(): name for name in VARIETIES}
_NUMBER = re.compile(r"\((\d{1,9})\)$")


@dataclass(frozen=True)
class ListedImage:
    """An image file by its place and name alone; the fields are columns of the manifest."""

    path: str
    label: str
    number: int | None
    status: str


def variety_of(folder: str) -> str:
    """Find the variety that a folder's name stands for, whatever its case; empty for none."""
    return _BY_NAME.get(folder.casefold(), "")


def is_image_name(path: str) -> bool:
    """Check that a relative path has an image's suffix, and no hidden or macOS metadata part."""
    place = PurePosixPath(path)
    return is_photograph(place.name) and not _is_hidden(place)


def classify(path: str) -> ListedImage:
    """Read a relative path: `Arborio/Arborio (12).jpg` is number 12 of Arborio."""
    place = PurePosixPath(path)
    label = variety_of(place.parts[0]) if len(place.parts) == 2 else ""
    found = _NUMBER.search(place.stem)
    named = next((name for key, name in _BY_NAME.items() if place.stem.casefold().startswith(key)), "")
    if (written := path.encode("utf-8", "backslashreplace").decode()) != path:
        # neither the manifest nor a split file could hold the name
        path, status = written, "corrupt: the file's name is not UTF-8"
    elif not label:
        status = "mislabelled: not in a variety's folder"
    elif named not in ("", label):
        status = f"mislabelled: the name says {named}, the folder {label}"
    else:
        status = OK
    return ListedImage(path, label, int(found[1]) if found else None, status)


def thin(images: Iterable[ListedImage], per_class: int | None, seed: int) -> list[ListedImage]:
    """Draw at most `per_class` images of each variety by a hash (so fewer are a subset); those of none are all kept."""
    images = list(images)
    if per_class is None:
        return images
    taken: Counter[str] = Counter()
    kept = set()
    for image in sorted(images, key=lambda i: hashlib.sha256(f"{seed}/{i.path}".encode(errors="replace")).digest()):
        taken[image.label] += 1
        if not image.label or taken[image.label] <= per_class:
            kept.add(image.path)
    return [image for image in images if image.path in kept]


def list_images(root: Path) -> list[ListedImage]:
    """List every image file below `root`, by folder, number and name.

    Raises:
        RiceError: a folder cannot be read.
    """

    def stop(error: OSError) -> None:
        raise RiceError(f"{error.filename}: the folder cannot be read ({error.strerror})")

    paths = [entry.name for entry in os.scandir(root) if not entry.is_dir()]
    for top in (entry for entry in os.scandir(root) if entry.is_dir()):
        for folder, _, names in os.walk(top.path, onerror=stop):
            parent = os.path.relpath(folder, root).replace(os.sep, "/")
            paths += [f"{parent}/{name}" for name in names]
    images = [classify(path) for path in paths if is_image_name(path)]
    return sorted(images, key=lambda image: (os.path.dirname(image.path), image.number or -1, image.path))


def find_variety_root(folder: Path) -> Path:
    """Find the folder that holds the variety folders: `folder` itself, or the only one up to two levels below it.

    Raises:
        RiceError: no such folder, or none or several below it hold variety folders.
    """
    if not folder.is_dir():
        raise RiceError(f"{folder}: no such folder" if not folder.exists() else f"{folder}: not a folder")
    for level in ("*", "*/*", "*/*/*"):
        found = (place for place in folder.glob(level) if variety_of(place.name) and place.is_dir())
        roots = {place.parent for place in found if not _is_hidden(place.relative_to(folder))}
        if len(roots) == 1:
            return roots.pop()
        if roots:
            names = ", ".join(sorted(map(str, roots)))
            raise RiceError(f"{folder}: several folders of varieties ({names}); name the one you mean")
    raise RiceError(f"{folder}: no folder named after a variety ({', '.join(VARIETIES)}) in it")


def _is_hidden(place: PurePath) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in place.parts)
