"""Read from a file's place and name: its class, its number, and whether the two contradict each other.

The layout is that of torchvision's `ImageFolder`, `<Class>/<name>.jpg`, with names such as `Arborio (1).jpg` or
`basmati (2).jpg`. A folder inside a class's folder is a session: `<Class>/<session>/<name>.jpg`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rice_lib.common.classes import check_names, normalise
from rice_lib.common.errors import RiceError
from rice_lib.contract.decode import is_photograph

OK = "ok"  # status of an image that may be used; any other status is the reason why it is not

_NUMBER = re.compile(r"\((\d{1,9})\)$")


@dataclass(frozen=True)
class ListedImage:
    """An image file by its place and name alone; the fields are columns of the manifest."""

    path: str
    label: str
    number: int | None
    status: str


def is_image_name(path: str) -> bool:
    """Check that a relative path has an image's suffix, and no hidden or macOS metadata part."""
    place = PurePosixPath(path)
    return is_photograph(place.name) and not any(part.startswith(".") or part == "__MACOSX" for part in place.parts)


def number_of(path: str) -> int | None:
    """Read the number in brackets that ends a file's name; None for none."""
    found = _NUMBER.search(PurePosixPath(path).stem)
    return int(found[1]) if found else None


def session_of(path: str) -> str:
    """Name the session of an image: the folders between its class's folder and it; empty for none."""
    return "/".join(PurePosixPath(path).parts[1:-1])


def classify(path: str, classes: Sequence[str]) -> ListedImage:
    """Read a path below the root of the class folders: `Arborio/Arborio (12).jpg` is number 12 of Arborio.

    Case does not count. A name that begins with another class's name (a word of its own of three letters or more), and
    not with its own's, is a contradiction; one that begins with a class's whose name its own begins with (Basmati in
    the folder Basmati 370) is none.
    """
    written = path.encode("utf-8", "backslashreplace").decode()
    place = PurePosixPath(written)
    by_name = {name.casefold(): name for name in classes}
    label = by_name.get(normalise(place.parts[0]).casefold(), "") if len(place.parts) > 1 else ""
    stem, own = normalise(place.stem).casefold(), label.casefold()
    begins = [key for key in by_name if len(key) >= 3 and stem.startswith(key) and not stem[len(key) :][:1].isalpha()]
    named = max(begins, key=len, default="")
    if written != path:
        # neither the manifest nor a split file could hold the name
        status = "corrupt: the file's name is not UTF-8"
    elif not label:
        status = "mislabelled: not in a variety's folder"
    elif named and not stem.startswith(own) and not own.startswith(named):
        status = f"mislabelled: the name says {by_name[named]}, the folder {label}"
    else:
        status = OK
    return ListedImage(written, label, number_of(written), status)


def list_places(paths: Iterable[str], classes: Sequence[str] | None) -> list[ListedImage]:
    """Read paths below the root of the class folders; `classes` None makes a class of every folder there.

    Raises `RiceError` where the names cannot be those of classes.
    """
    paths = list(paths)
    if classes is None:
        tops = (path.split("/")[0] for path in paths if "/" in path)
        classes = sorted({normalise(top.encode("utf-8", "backslashreplace").decode()) for top in tops})
    check_names(classes)
    return [classify(path, classes) for path in paths]


def thin(images: Iterable[ListedImage], per_class: int | None, seed: int) -> list[ListedImage]:
    """Draw at most `per_class` images of each variety by a hash (so fewer are a subset); those of none are all kept."""
    images = list(images)
    shuffled = sorted(images, key=lambda i: hashlib.sha256(f"{seed}/{i.path}".encode(errors="replace")).digest())
    of_label: defaultdict[str, list[str]] = defaultdict(list)
    for image in shuffled:
        of_label[image.label].append(image.path)
    kept = {path for label, paths in of_label.items() for path in (paths[:per_class] if label else paths)}
    return [image for image in images if image.path in kept]


def list_images(root: Path, classes: Sequence[str] | None = None) -> list[ListedImage]:
    """List every image file below `root`, by folder, number and name; `classes` as for `list_places`."""
    images = list_places(image_paths(root), classes)
    return sorted(images, key=lambda image: (os.path.dirname(image.path), image.number or -1, image.path))


def find_class_root(folder: Path, classes: Sequence[str] | None = None) -> Path:
    """Find the folder that holds the class folders, see `class_root`: `folder` itself, or one below it."""
    if not folder.is_dir():
        raise RiceError(f"{folder}: no such folder" if not folder.exists() else f"{folder}: not a folder")
    return folder / class_root(image_paths(folder), str(folder), classes)


def class_root(paths: Iterable[str], where: str, classes: Sequence[str] | None) -> PurePosixPath:
    """Find the folder that holds the class folders: of `classes`, or else two or more folders with images in them.

    Takes POSIX paths of images, a name of the folder or archive for errors, and names of classes, whatever their case.
    Raises `RiceError` where there is no such folder, there are several, or a class of `classes` has no image.
    """
    wanted = None if classes is None else {name.casefold() for name in classes}
    roots: defaultdict[PurePosixPath, set[str]] = defaultdict(set)
    for folder in {PurePosixPath(path).parent for path in paths}:
        for depth in range(len(folder.parts)) if wanted else [len(folder.parts) - 1] if folder.name else []:
            name = normalise(folder.parts[depth])
            if wanted is None or name.casefold() in wanted:
                roots[PurePosixPath(*folder.parts[:depth])].add(name)
                break
    found = [root for root, names in roots.items() if wanted or len(names) > 1]
    if len(found) > 1:
        names = ", ".join(sorted(map(str, found)))
        raise RiceError(f"{where}: several folders of varieties ({names}); name one in data.path, or data.classes")
    if not found:
        held = ", ".join(sorted(name for names in roots.values() for name in names)) or "none"
        named = f"named after a variety ({', '.join(classes)})" if classes else f"of images a class (found: {held})"
        raise RiceError(f"{where}: no folders {named} in it; at least 2 are needed")
    missing = [name for name in classes or () if name.casefold() not in {n.casefold() for n in roots[found[0]]}]
    if missing:
        raise RiceError(f"{where}: data.classes: no image of {', '.join(missing)} in it")
    return found[0]


def image_paths(root: Path) -> list[str]:
    """List the files below a folder that are named as images, relative and POSIX; hidden folders are left out.

    Raises `RiceError` where a folder cannot be read.
    """

    def stop(error: OSError) -> None:
        raise RiceError(f"{error.filename}: the folder cannot be read ({error.strerror})")

    paths, seen = list[str](), {os.path.realpath(root)}
    for folder, folders, names in os.walk(root, onerror=stop, followlinks=True):
        # a class's folder may be a link; one that leads back would never end
        real = {name: os.path.realpath(os.path.join(folder, name)) for name in folders if not name.startswith(".")}
        folders[:] = [name for name, place in real.items() if place not in seen]
        seen.update(real.values())
        parent = os.path.relpath(folder, root).replace(os.sep, "/")
        paths += names if parent == "." else [f"{parent}/{name}" for name in names]
    return [path for path in paths if is_image_name(path)]
