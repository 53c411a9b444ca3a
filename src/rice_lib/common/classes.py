"""Read and write the names of the classes, in the order of their numbers.

They come from the data: notebook 01 writes `labels.json`, every later stage reads it, and a model carries its own in
its metadata.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from rice_lib.common.errors import RiceError
from rice_lib.common.files import read_json, write_json
from rice_lib.common.paths import Paths

RESERVED = (
    *("unknown", "path", "grain", "label", "confidence", "reason", "notes", "error"),
    *("x", "y", "angle", "broken", "colour", "length_px", "width_px", "length_mm", "width_mm"),
)
"""What a record calls a rejected image, and the columns of records as CSV: no class may be called so."""


def normalise(name: str) -> str:
    """Write a folder's name as the class is called: Unicode in NFC, as macOS does not keep it."""
    return unicodedata.normalize("NFC", name)


def check_names(names: Sequence[str]) -> None:
    """Check that a model can predict these classes and every file can hold their names; raises `RiceError`."""
    if len(names) < 2:
        raise RiceError(f"classes found: {', '.join(names) or 'none'}; at least 2 are needed, one folder each")
    seen: dict[str, str] = {}
    for name in names:
        if name.casefold() in RESERVED or not name.isprintable() or name != name.strip():
            raise RiceError(f"class {name!r}: a name that files of records cannot hold; rename its folder")
        if (same := seen.setdefault(name.casefold(), name)) != name:
            raise RiceError(f"classes {same!r} and {name!r} differ by case alone; give them one folder, or two names")


def write_classes(paths: Paths, names: Sequence[str], **about: object) -> None:
    """Write `labels.json` of a profile: `labels2id` and `id2labels`, and what else is `about` the images."""
    numbers = {name: number for number, name in enumerate(names)}
    by_number = {str(number): name for name, number in numbers.items()}
    write_json(paths.labels, {"labels2id": numbers, "id2labels": by_number, **about})


def read_classes(paths: Paths) -> tuple[str, ...]:
    """Read the class names of a profile; raises `RiceError` where notebook 01 has not written them."""
    try:
        numbers: dict[str, int] = read_json(paths.labels)["labels2id"]
        return tuple(sorted(numbers, key=numbers.__getitem__))
    except FileNotFoundError:
        raise RiceError(f"{paths.labels}: no class names; {paths.run('01_eda')} first") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RiceError(f"{paths.labels}: not a file of class names; {paths.run('01_eda')} again") from None
