"""Fetch the images. Five sources, one interface: `fetch` returns a folder that holds `<Class>/...`.

Images that are made, unpacked, downloaded or cut lie below `paths.images`, with a record of what they are; a `folder`
is read where it lies. A source that cannot be had is an error: none ever stands in for another.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path, read_json, sha256_file, write_json
from rice_lib.common.parameters import DataParams
from rice_lib.common.paths import Paths
from rice_lib.data import archive, photographs, synthetic
from rice_lib.data.listing import OK, find_class_root, list_images, list_places, thin

PATH_VARIABLE = "RICE_DATA"  # stands in for `data.path` where that is null
_RECORD = ".source.json"


def fetch(params: DataParams, paths: Paths, seed: int) -> Path:
    """Make sure that the images are here; returns the folder that holds the class folders.

    All but a `folder` end up below `paths.images`; `per_class` is not applied to a `folder`, which may hold more.
    Raises `RiceError` where the source cannot be had.
    """
    fetchers = {"synthetic": _generate, "zip": _unpack, "kaggle": _download, "photographs": _cut}
    if fetcher := fetchers.get(params.source):
        fetcher(params, paths, seed)
    return locate(params, paths)


def locate(params: DataParams, paths: Paths) -> Path:
    """Find the folder that `fetch` returned, without fetching; raises `RiceError` where it is not there."""
    if params.source == "folder":
        return find_class_root(_named_path(params, paths), params.classes)
    if not _record(paths).get("complete"):
        raise RiceError(f"{paths.images}: images not fetched yet; run notebook 01_eda (make report) first")
    return paths.images


def describe(params: DataParams, paths: Paths) -> str:
    """Say which images these are, and whether they are photographs."""
    if params.source == "synthetic":
        return (
            "These are generated images, drawn by this project from measured shapes and colours; "
            "none of them is a photograph, and figures from them say nothing about real rice."
        )
    place = _named_path(params, paths) if params.source in ("folder", "photographs") else None
    name = {
        "kaggle": f"Kaggle's {params.kaggle_dataset}",
        "folder": f"the folder {place}",
        "photographs": f"the photographs in {place}, one grain each",
        "zip": f"the archive {_record(paths).get('archive')}",
    }[params.source]
    some = f", of which {params.per_class:,} a variety were drawn" if params.per_class else ""
    return f"These are the images of {name}{some} (data.source: {params.source})."


def _generate(params: DataParams, paths: Paths, seed: int) -> None:
    if params.per_class is None:
        raise RiceError("data.per_class: say how many images of each variety to generate")
    with _recorded(paths, params, seed, version=synthetic.VERSION):
        synthetic.write_images(paths.images, params.per_class, seed, params.workers)


def _unpack(params: DataParams, paths: Paths, seed: int) -> None:
    if not (params.path or os.environ.get(PATH_VARIABLE)) and _is_complete(paths, params, seed):
        print(f"{PATH_VARIABLE} and data.path name no zip; using what was unpacked before", file=sys.stderr)
        return
    images = archive.inspect(_named_path(params, paths), params.classes)
    chosen = thin(list_places(images.entries, params.classes), params.per_class, seed)
    with _recorded(paths, params, seed, archive=images.file.name, digest=images.digest):
        archive.extract(images, [image.path for image in chosen], paths.images)


def _download(params: DataParams, paths: Paths, seed: int) -> None:
    if _is_complete(paths, params, seed, dataset=params.kaggle_dataset):
        return
    root = find_class_root(_kaggle_folder(params.kaggle_dataset), params.classes)
    with _recorded(paths, params, seed, dataset=params.kaggle_dataset):
        chosen = thin(list_images(root, params.classes), params.per_class, seed)
        for image in tqdm(chosen, desc="copy", unit="file", delay=2, mininterval=1, leave=False):
            source, target = root / image.path, paths.images / image.path
            if not target.is_file() or target.stat().st_size != source.stat().st_size:
                with atomic_path(target) as temporary:
                    shutil.copyfile(source, temporary)


def _cut(params: DataParams, paths: Paths, seed: int) -> None:
    scale = {"mm_per_pixel": params.mm_per_pixel, "reference_mm": params.reference_mm}
    if None not in scale.values():
        raise RiceError("data.mm_per_pixel does not go with data.reference_mm; set one of them to null")
    root = find_class_root(_named_path(params, paths), params.classes)
    images = list_images(root, params.classes)
    lines = [f"{image.path} {sha256_file(root / image.path)}\n" for image in images]
    about = {**scale, "version": photographs.VERSION, "digest": sha256("".join(lines).encode()).hexdigest()}
    if _is_complete(paths, params, seed, **about):
        return
    good = {image.path: root / image.path for image in images if image.status == OK}
    unusable = [photographs.Cutting(image.path, error=image.status) for image in images if image.status != OK]
    with _recorded(paths, params, seed, **about):
        photographs.cut(good, paths.images, **scale, unusable=unusable, workers=params.workers)


def _kaggle_folder(dataset: str) -> Path:
    """Download, or find in kagglehub's own cache; kagglehub resumes and checks. Public: no credentials."""
    import kagglehub

    try:
        return Path(kagglehub.dataset_download(dataset))
    except Exception as error:  # kagglehub lets through whatever its HTTP client, zip reader or disk raises
        # requests describes a failed connection in a paragraph
        lines = [] if "Connect" in type(error).__name__ else str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0][:150]}" if lines else type(error).__name__
        hint = "check the network, or download the zip by hand and set data.source to zip and data.path to it"
        raise RiceError(f"{dataset}: cannot be downloaded from Kaggle ({reason}); {hint}", status=1) from None


def _named_path(params: DataParams, paths: Paths) -> Path:
    """Give `data.path`, else `RICE_DATA`; relative to the project's root, whatever folder a notebook runs in."""
    if not (named := params.path or os.environ.get(PATH_VARIABLE)):
        raise RiceError(f'data.path: name the {params.source} of images (SET="data.path=..."), or set {PATH_VARIABLE}')
    return paths.root / Path(named).expanduser()


def _record(paths: Paths) -> dict[str, Any]:
    with suppress(FileNotFoundError, ValueError):
        return dict(read_json(paths.images / _RECORD))
    return {}


def _is_complete(paths: Paths, params: DataParams, seed: int, **about: object) -> bool:
    drawn = {} if params.per_class is None else {"seed": seed}
    wanted = {"source": params.source, "per_class": params.per_class, "complete": True, **drawn, **about}
    return wanted.items() <= _record(paths).items()


@contextmanager
def _recorded(paths: Paths, params: DataParams, seed: int, **about: object) -> Iterator[None]:
    """Keep what an interrupted run of the same configuration left, remove what others did; never a stranger's files."""
    about = {"source": params.source, "per_class": params.per_class, "seed": seed, **about}
    record = _record(paths)
    if {**record, "complete": None} != {**about, "complete": None} and paths.images.exists():
        if not record and any(paths.images.iterdir()):
            raise RiceError(f"{paths.images}: holds files that this project did not put there; move them away")
        shutil.rmtree(paths.images)
    for stale in paths.images.rglob(".*.tmp*"):
        stale.unlink()
    write_json(paths.images / _RECORD, {**about, "complete": False})
    yield
    write_json(paths.images / _RECORD, {**about, "complete": True})
