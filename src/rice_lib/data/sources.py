"""Where the images come from. Four sources, one interface: `fetch` returns a folder that holds `<Variety>/...`.

Images that are made, unpacked or downloaded lie below `paths.images`, with a record of what they are; a `folder` is
read where it lies. A source that cannot be had is an error: none ever stands in for another.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path, read_json, write_json
from rice_lib.common.parameters import DataParams
from rice_lib.common.paths import Paths
from rice_lib.data import archive, synthetic
from rice_lib.data.listing import classify, find_variety_root, list_images, thin

PATH_VARIABLE = "RICE_DATA"
"""Environment variable that stands in for `data.path` where that is null."""

_RECORD = ".source.json"


def fetch(params: DataParams, paths: Paths, seed: int) -> Path:
    """Make sure that the images are here.

    Args:
        params: the source, and `per_class` to take of each variety (not applied to a `folder`, which may hold more).
        paths: the profile's paths; all but a folder end up below `paths.images`.
        seed: for generated images, and for the draw where `per_class` takes some of many.

    Returns:
        The folder that holds the variety folders.

    Raises:
        RiceError: the source cannot be had: one line that says what to do.
    """
    if params.source == "folder":
        return find_variety_root(_named_path(params, paths))
    return {"synthetic": _generate, "zip": _unpack, "kaggle": _download}[params.source](params, paths, seed)


def locate(params: DataParams, paths: Paths) -> Path:
    """Find the folder that `fetch` returned, without fetching; raises `RiceError` where it is not there."""
    if params.source == "folder":
        return find_variety_root(_named_path(params, paths))
    if not _record(paths).get("complete"):
        raise RiceError(f"{paths.images}: images not fetched yet; run notebook 01_eda (make report) first")
    return paths.images


def describe(params: DataParams, paths: Paths) -> str:
    """Say in one sentence which images these are, and whether they are photographs."""
    if params.source == "synthetic":
        return (
            "These are generated images, drawn by this project from measured shapes and colours; "
            "none of them is a photograph, and figures from them say nothing about real rice."
        )
    if params.source == "folder":
        name = f"the folder {_named_path(params, paths)}"
    elif params.source == "zip":
        name = f"the archive {_record(paths).get('archive')}"
    else:
        name = f"Kaggle's {params.kaggle_dataset}"
    some = f", of which {params.per_class:,} a variety were drawn" if params.per_class else ""
    return f"These are the images of {name}{some} (data.source: {params.source})."


def _generate(params: DataParams, paths: Paths, seed: int) -> Path:
    if params.per_class is None:
        raise RiceError("data.per_class: say how many images of each variety to generate")
    about = {"source": "synthetic", "per_class": params.per_class, "seed": seed, "version": synthetic.VERSION}
    _begin(paths, about)
    synthetic.write_images(paths.images, params.per_class, seed, params.workers)
    return _finish(paths, about)


def _unpack(params: DataParams, paths: Paths, seed: int) -> Path:
    if _path_or_none(params) is None and _is_complete(paths, "zip", params, seed):
        print(f"{PATH_VARIABLE} and data.path name no zip; using what was unpacked before", file=sys.stderr)
        return paths.images
    images = archive.inspect(_named_path(params, paths))
    chosen = thin(map(classify, images.entries), params.per_class, seed)
    about = {"source": "zip", "per_class": params.per_class, "seed": seed}
    about |= {"archive": images.file.name, "digest": images.digest}
    _begin(paths, about)
    archive.extract(images, [image.path for image in chosen], paths.images)
    return _finish(paths, about)


def _download(params: DataParams, paths: Paths, seed: int) -> Path:
    if _is_complete(paths, "kaggle", params, seed):
        return paths.images
    root = find_variety_root(_kaggle_folder(params.kaggle_dataset))
    about = {"source": "kaggle", "per_class": params.per_class, "seed": seed, "dataset": params.kaggle_dataset}
    _begin(paths, about)
    chosen = thin(list_images(root), params.per_class, seed)
    for image in tqdm(chosen, desc="copy", unit="file", delay=2, mininterval=1, leave=False):
        source, target = root / image.path, paths.images / image.path
        if not target.is_file() or target.stat().st_size != source.stat().st_size:
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)
    return _finish(paths, about)


def _kaggle_folder(dataset: str) -> Path:
    """Download (or find in kagglehub's own cache); resumed and checksummed by kagglehub. Public: no credentials."""
    import kagglehub

    try:
        return Path(kagglehub.dataset_download(dataset))
    except Exception as error:  # kagglehub lets through whatever its HTTP client, zip reader or disk raises
        # requests' account of a failed connection is a paragraph of its own machinery
        lines = [] if "Connect" in type(error).__name__ else str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0][:150]}" if lines else type(error).__name__
        hint = "check the network, or download the zip by hand and set data.source to zip and data.path to it"
        raise RiceError(f"{dataset}: cannot be downloaded from Kaggle ({reason}); {hint}", status=1) from None


def _path_or_none(params: DataParams) -> str | None:
    return params.path or os.environ.get(PATH_VARIABLE) or None


def _named_path(params: DataParams, paths: Paths) -> Path:
    """Give `data.path`, else `RICE_DATA`; relative to the project's root, whatever folder a notebook runs in."""
    named = _path_or_none(params)
    if named is None:
        raise RiceError(f'data.path: name the {params.source} of images (SET="data.path=..."), or set {PATH_VARIABLE}')
    return paths.root / Path(named).expanduser()


def _record(paths: Paths) -> dict[str, Any]:
    try:
        return dict(read_json(paths.images / _RECORD))
    except (FileNotFoundError, ValueError):
        return {}


def _is_complete(paths: Paths, source: str, params: DataParams, seed: int) -> bool:
    record = _record(paths)
    wanted = {"source": source, "per_class": params.per_class, "complete": True}
    if source == "kaggle":
        wanted["dataset"] = params.kaggle_dataset
    if params.per_class is not None:
        wanted["seed"] = seed
    return wanted.items() <= record.items()


def _begin(paths: Paths, about: dict[str, Any]) -> None:
    """Keep what an interrupted run of the same configuration left, remove what others did; never a stranger's files."""
    record = _record(paths)
    if {**record, "complete": None} != {**about, "complete": None} and paths.images.exists():
        if not record and any(paths.images.iterdir()):
            raise RiceError(f"{paths.images}: holds files that this project did not put there; move them away")
        shutil.rmtree(paths.images)
    for stale in paths.images.rglob(".*.tmp*"):
        stale.unlink()
    write_json(paths.images / _RECORD, {**about, "complete": False})


def _finish(paths: Paths, about: dict[str, Any]) -> Path:
    write_json(paths.images / _RECORD, {**about, "complete": True})
    return paths.images
