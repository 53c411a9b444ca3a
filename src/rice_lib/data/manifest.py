"""Build and read the manifest: one row an image, with all that later stages need to know of it but its pixels.

Images that cannot be used stay in it, with the reason as their status, and are in no split.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256

import numpy as np
import pandas as pd

from rice_lib.common.classes import write_classes
from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path, read_json, write_csv, write_json
from rice_lib.common.paths import Paths
from rice_lib.common.run import Run
from rice_lib.contract.decision import ImageScale
from rice_lib.contract.decode import IMAGE_SIZE
from rice_lib.data import photographs, sources
from rice_lib.data.decoding import DecodedFile, decode_all
from rice_lib.data.duplicates import group_duplicates, join
from rice_lib.data.listing import OK, ListedImage, list_images, number_of, thin

COLUMNS = (
    *("path", "label", "number", "photograph", "bytes", "sha256", "width", "height", "duplicate", "group", "status"),
)
"""path: relative to the folder of class folders, POSIX; label: the folder's class, empty for none; number: the
integer in brackets in the name, if any; photograph: the one of many grains that it was cut from, empty for none; bytes
and sha256 of the file; width and height in pixels; duplicate: row of the first image that shows the same (see
`duplicates`); group: row of the first image that a split keeps it together with, which are duplicates and grains of one
photograph; status: `ok`, or why the image is not used."""


def build(run: Run) -> pd.DataFrame:
    """Fetch and decode the images of a run; write its manifest, labels and pixel cache; return the manifest.

    Raises `RiceError` where the source cannot be had or holds no image, or there is no room for the cache.
    """
    paths, params = run.paths, run.params
    root = sources.fetch(params.data, paths, params.seed)
    images = thin(list_images(root, params.data.classes), params.data.per_class, params.seed)
    # the old cache goes first: the disk may not hold two
    shutil.rmtree(paths.cache, ignore_errors=True)
    with atomic_path(paths.cache / "pixels.npy") as cache:
        decoded = decode_all([root / image.path for image in images], cache, params.data.workers)
        table = _table(images, decoded, np.load(cache, mmap_mode="r"), photographs.photograph_of(root))
    write_csv(paths.manifest, COLUMNS, table.astype(object).where(table.notna(), "").itertuples(index=False))
    scale = {name: value for name, value in photographs.read_about(root).items() if name == "scale"}
    write_classes(paths, class_names(table), **scale)
    write_json(paths.cache / "cache.json", {"rows": _hash_rows(table)})
    return table


def read(paths: Paths) -> pd.DataFrame:
    """Read the manifest that `build` wrote; raises `RiceError` where there is none, or another file."""
    numbers = {"number": "Int64"} | dict.fromkeys(("bytes", "width", "height", "duplicate", "group"), "int64")
    types = dict.fromkeys(COLUMNS, "str") | numbers
    try:
        table = pd.read_csv(paths.manifest, dtype=types, keep_default_na=False, na_values={"number": [""]})
        if tuple(table.columns) != COLUMNS:
            raise ValueError(f"its columns are {', '.join(table.columns)}")
    except FileNotFoundError:
        raise RiceError(f"{paths.manifest}: no manifest; {paths.run('01_eda')} first") from None
    except ValueError as error:
        why = " ".join(str(error).split())
        raise RiceError(f"{paths.manifest}: not a manifest ({why}); {paths.run('01_eda')} again") from None
    return table


def restore(run: Run) -> bool:
    """Decode the images again where the pixel cache, which DVC does not store, is missing or not the manifest's.

    Returns whether there was anything to do; raises `RiceError` where an image is not the manifest's any more.
    """
    paths, params = run.paths, run.params
    table = read(paths)
    with suppress(RiceError):
        open_cache(paths)
        return False
    root = sources.locate(params.data, paths)
    with atomic_path(paths.cache / "pixels.npy") as cache:
        decoded = decode_all([root / path for path in table["path"]], cache, params.data.workers)
        for path, expected, file in zip(table["path"], table["sha256"], decoded, strict=True):
            if file.sha256 != expected:
                raise RiceError(f"{root / path}: not the image in {paths.manifest.name}; {paths.run('01_eda')} again")
    write_json(paths.cache / "cache.json", {"rows": _hash_rows(table)})
    return True


def open_cache(paths: Paths) -> np.ndarray:
    """Open the pixels of the manifest's images, row by row: uint8 `[n, 224, 224, 3]`, memory-mapped, read-only.

    Raises `RiceError` where there is no cache, a damaged one, or another manifest's.
    """
    table = read(paths)
    try:
        rows = read_json(paths.cache / "cache.json")["rows"]
        pixels = np.load(paths.cache / "pixels.npy", mmap_mode="r")
    except (OSError, ValueError, LookupError, TypeError):
        raise RiceError(f"{paths.cache}: no pixel cache, or a damaged one; {paths.run('01_eda')} again") from None
    if rows != _hash_rows(table) or pixels.shape != (len(table), IMAGE_SIZE, IMAGE_SIZE, 3):
        raise RiceError(f"{paths.cache}: the pixel cache belongs to another manifest; {paths.run('01_eda')} again")
    return pixels


def read_scale(paths: Paths) -> ImageScale | None:
    """Read the scale at which the images show their grains; None where they were not cut at one."""
    scale = read_json(paths.labels).get("scale")
    return ImageScale(**scale) if scale else None


def class_names(table: pd.DataFrame) -> list[str]:
    """List the classes of a manifest (or of a split) in the order of their numbers: sorted."""
    return sorted(set(table["label"]) - {""})


def usable(manifest: pd.DataFrame) -> pd.DataFrame:
    """Take the rows of images that can be used."""
    return manifest[manifest["status"] == OK]


def _hash_rows(table: pd.DataFrame) -> str:
    """Compute the hex sha256 of which file each row is of, to which the rows of a cache are bound.

    Of the table, not of its file: rows that read back otherwise than they were written do not pass.
    """
    return sha256(json.dumps(table[["path", "sha256"]].values.tolist()).encode()).hexdigest()


def _table(
    images: Sequence[ListedImage], decoded: Sequence[DecodedFile], pixels: np.ndarray, cut_from: Mapping[str, str]
) -> pd.DataFrame:
    listed, files = pd.DataFrame(images), pd.DataFrame([vars(file) for file in decoded]).drop(columns="hash")
    hashes = np.stack([file.hash for file in decoded])
    hashes[(files["status"] != OK).to_numpy()] = np.nan
    duplicate = group_duplicates(files["sha256"].tolist(), hashes, pixels)
    photograph = pd.Series([cut_from.get(path, "") for path in listed["path"]], dtype=str)
    first = photograph.index.to_series().groupby(photograph).transform("first")[photograph != ""]
    table = listed.assign(
        # a frame is numbered as its photograph is
        number=pd.array(listed["number"].where(photograph == "", photograph.map(number_of)), dtype="Int64"),
        photograph=photograph,
        duplicate=duplicate,
        group=join(duplicate, np.stack([first.index, first], axis=1).astype(np.int64)),
        status=listed["status"].where(listed["status"] != OK, files["status"]),
        **files.drop(columns="status"),
    )[list(COLUMNS)]
    # a photograph that is filed under two varieties: nobody knows which is right, so neither is used
    good = usable(table)
    for _, rows in good[good.groupby("duplicate")["label"].transform("nunique") > 1].groupby("duplicate"):
        names = " and ".join(sorted(set(rows["label"])))
        table.loc[rows.index, "status"] = f"mislabelled: the same photograph lies under {names}"
    return table
