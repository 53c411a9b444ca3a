"""The manifest: one row an image, with everything later stages need to know about it but its pixels.

`build` fetches the images, decodes each once, and writes the manifest (CSV), `labels.json` and the pixel
cache. Images that cannot be used stay in the manifest, with the reason as their status, and are in no split.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import numpy as np
import pandas as pd

from rice_lib.common.classes import LABEL_TO_ID, VARIETIES
from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path, sha256_file, write_json
from rice_lib.common.paths import Paths
from rice_lib.common.run import Run
from rice_lib.data import sources
from rice_lib.data.decoding import DecodedFile, decode_all
from rice_lib.data.duplicates import group_duplicates
from rice_lib.data.listing import OK, ListedImage, list_images, thin

COLUMNS = ("path", "label", "number", "bytes", "sha256", "width", "height", "group", "status")
"""path: relative to the folder of variety folders, POSIX; label: the folder's variety, empty for none;
number: the integer in brackets in the name, if any; bytes and sha256 of the file; width and height in pixels;
group: row of the first image of the same photograph (see `duplicates`); status: `ok`, or why the image is not
used."""

_TYPES = {"path": str, "label": str, "number": "Int64", "sha256": str, "status": str}


def build(run: Run) -> pd.DataFrame:
    """Fetch and decode the images of a run; write its manifest, labels and pixel cache.

    Returns:
        The manifest, `COLUMNS`, one row an image, in the cache's order.

    Raises:
        RiceError: the source cannot be had or holds no image, or there is no room for the cache.
    """
    paths, params = run.paths, run.params
    root = sources.fetch(params.data, paths, params.seed)
    images = thin(list_images(root), params.data.per_class, params.seed)
    if not images:
        raise RiceError(f"{root}: no images in it")
    # the old cache goes first: it belongs to the manifest that is about to be replaced, and the disk may not hold two
    shutil.rmtree(paths.cache, ignore_errors=True)
    with atomic_path(paths.cache / "pixels.npy") as cache:
        decoded = decode_all([root / image.path for image in images], cache, params.data.workers)
        groups = _groups(decoded, np.load(cache, mmap_mode="r"))
    table = _table(images, decoded, groups)
    with atomic_path(paths.manifest) as temporary:
        table.to_csv(temporary, index=False, encoding="utf-8", lineterminator="\n")
    write_json(paths.labels, label_metadata())
    write_json(paths.cache / "cache.json", {"manifest": manifest_hash(paths), "images": len(table)})
    return table


def read(paths: Paths) -> pd.DataFrame:
    """The manifest that `build` wrote.

    Raises:
        RiceError: there is none, or it is not one.
    """
    if not paths.manifest.is_file():
        raise RiceError(f"{paths.manifest}: no manifest; run notebook 01_eda (make report) first")
    try:
        table = pd.read_csv(
            paths.manifest,
            dtype=_TYPES,
            keep_default_na=False,
            na_values={"number": [""]},
            encoding="utf-8",
        )
    except (ValueError, pd.errors.ParserError) as error:
        reason = " ".join(str(error).split())
        raise RiceError(f"{paths.manifest}: not a manifest ({reason}); run notebook 01_eda again") from None
    if tuple(table.columns) != COLUMNS:
        raise RiceError(f"{paths.manifest}: not a manifest (wrong columns); run notebook 01_eda again")
    return table


def usable(manifest: pd.DataFrame) -> pd.DataFrame:
    """The rows of images that can be used."""
    return manifest[manifest["status"] == OK]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """By variety (rows; `no variety` for images outside the variety folders) and in all: images, usable ones, mean size
    of a file (KB), groups of byte-identical files, and groups that are the same photograph but not the same bytes."""
    names = table["label"].where(table["label"] != "", "no variety")
    exact, near = duplicate_groups(table)
    columns = {
        "images": names.value_counts(),
        "usable": names[table["status"] == OK].value_counts(),
        "mean KB": table.groupby(names)["bytes"].mean() / 1000,
        "exact duplicate groups": names[exact].value_counts(),
        "near duplicate groups": names[near].value_counts(),
    }
    rows = [*VARIETIES, *(["no variety"] if (names == "no variety").any() else [])]
    result = pd.DataFrame(columns).reindex(rows).fillna(0)
    result.loc["all"] = result.sum()
    result.loc["all", "mean KB"] = table["bytes"].mean() / 1000
    return result.astype({name: int for name in columns if name != "mean KB"})


def duplicate_groups(table: pd.DataFrame) -> tuple[list[int], list[int]]:
    """First rows of the groups of several images: those all of the same bytes, and those with different ones."""
    files = table.groupby("group")["sha256"].agg(["size", "nunique"])
    several = files[files["size"] > 1]
    return several.index[several["nunique"] == 1].tolist(), several.index[several["nunique"] > 1].tolist()


def problems(table: pd.DataFrame) -> pd.DataFrame:
    """The images that are not used: path and status."""
    return table.loc[table["status"] != OK, ["path", "status"]].reset_index(drop=True)


def manifest_hash(paths: Paths) -> str:
    """Hex sha256 of the manifest file: what splits and caches are bound to; raises RiceError where there is
    none."""
    if not paths.manifest.is_file():
        raise RiceError(f"{paths.manifest}: no manifest; run notebook 01_eda (make report) first")
    return sha256_file(paths.manifest)


def label_metadata() -> dict[str, dict[str, int] | dict[str, str]]:
    """`labels2id` and `id2labels`, as the reference project writes them."""
    return {"labels2id": dict(LABEL_TO_ID), "id2labels": {str(k): name for k, name in enumerate(VARIETIES)}}


def _groups(decoded: Sequence[DecodedFile], pixels: np.ndarray) -> np.ndarray:
    hashes = np.stack([file.hash for file in decoded])
    hashes[[file.status != OK for file in decoded]] = np.nan
    return group_duplicates([file.sha256 for file in decoded], hashes, pixels)


def _table(images: list[ListedImage], decoded: list[DecodedFile], groups: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "path": [image.path for image in images],
            "label": [image.label for image in images],
            "number": pd.array([image.number for image in images], dtype="Int64"),
            "bytes": [file.bytes for file in decoded],
            "sha256": [file.sha256 for file in decoded],
            "width": [file.width for file in decoded],
            "height": [file.height for file in decoded],
            "group": groups,
            "status": [
                image.status if image.status != OK else file.status for image, file in zip(images, decoded, strict=True)
            ],
        },
        columns=list(COLUMNS),
    )
    return _mark_contradictions(table)


def _mark_contradictions(table: pd.DataFrame) -> pd.DataFrame:
    """One photograph filed under two varieties: nobody knows which is right, so neither is used."""
    good = usable(table)
    varieties = good.groupby("group")["label"].agg(lambda labels: sorted(set(labels)))
    for group, names in varieties[varieties.map(len) > 1].items():
        rows = good.index[good["group"] == group]
        table.loc[rows, "status"] = f"mislabelled: the same photograph lies under {' and '.join(names)}"
    return table
