"""Fetch the images. Five sources, one interface: `fetch` returns a folder that holds `<Class>/...`.

Images that are made, unpacked, downloaded or cut lie below `paths.images`, with a record of what they are; a `folder`
is read where it lies. A source that cannot be had is an error: none ever stands in for another.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_folder, read_json, sha256_file, write_json
from rice_lib.common.parameters import DataParams
from rice_lib.common.paths import Paths
from rice_lib.data import archive, photographs, synthetic
from rice_lib.data.listing import OK, find_class_root, list_images, list_places, thin

PATH_VARIABLE = "RICE_DATA"  # stands in for `data.path` where that is null
_RECORD = ".source.json"

Prepared = tuple[dict[str, Any], Callable[[Path], object]]
"""What the images are, for the record beside them, and what writes them into an empty folder."""


def fetch(params: DataParams, paths: Paths, seed: int) -> Path:
    """Make sure that the images are here; returns the folder that holds the class folders.

    All but a `folder` end up below `paths.images`, complete or not at all; `per_class` is not applied to a `folder`,
    which may hold more. Raises `RiceError` where the source cannot be had.
    """
    prepare = {"synthetic": _generate, "zip": _unpack, "kaggle": _download, "photographs": _cut}.get(params.source)
    if prepare is not None:
        about, write = prepare(params, paths, seed)
        drawn = None if params.per_class is None else seed
        about = {"source": params.source, "per_class": params.per_class, "seed": drawn, **about}
        if (record := _record(paths)) != about:
            if not record and paths.images.is_dir() and any(paths.images.iterdir()):
                raise RiceError(f"{paths.images}: holds files that this project did not put there; move them away")
            with atomic_folder(paths.images.resolve()) as fresh:
                write(fresh)
                write_json(fresh / _RECORD, about)
    return locate(params, paths)


def locate(params: DataParams, paths: Paths) -> Path:
    """Find the folder that `fetch` returned, without fetching; raises `RiceError` where it is not there."""
    if params.source == "folder":
        return find_class_root(_named_path(params, paths), params.classes)
    if not _record(paths):
        raise RiceError(f"{paths.images}: images not fetched yet; {paths.run('01_eda')} first")
    return paths.images


def describe(params: DataParams, paths: Paths) -> str:
    """Say which images these are, and whether they are photographs."""
    if params.source == "synthetic":
        return (
            "These are generated images, drawn by this project from measured shapes and colours; "
            "none of them is a photograph, and figures from them say nothing about real rice."
        )
    names = {"kaggle": f"Kaggle's {params.kaggle_dataset}", "zip": f"the archive {_record(paths).get('archive')}"}
    name = names.get(params.source) or f"the {params.source} in {_named_path(params, paths)}"
    some = f", of which {params.per_class:,} a variety were drawn" if params.per_class else ""
    return f"These are the images of {name}{some} (data.source: {params.source})."


def _generate(params: DataParams, paths: Paths, seed: int) -> Prepared:
    per_class = params.per_class
    if per_class is None:
        raise RiceError("data.per_class: say how many images of each variety to generate")
    return {"version": synthetic.VERSION}, lambda to: synthetic.write_images(to, per_class, seed, params.workers)


def _unpack(params: DataParams, paths: Paths, seed: int) -> Prepared:
    before = _record(paths)
    if not (params.path or os.environ.get(PATH_VARIABLE)) and before.get("source") == "zip":
        print(f"{PATH_VARIABLE} and data.path name no zip; using what was unpacked before", file=sys.stderr)
        # where it was another configuration's, to name the zip is the error
        return {name: before[name] for name in ("archive", "digest")}, lambda _: _named_path(params, paths)
    file = _named_path(params, paths)
    entries = archive.list_entries(file, params.classes)
    chosen = thin(list_places(entries, params.classes), params.per_class, seed)
    about = {"archive": file.name, "digest": sha256_file(file)}
    return about, lambda to: archive.extract(file, entries, [image.path for image in chosen], to)


def _download(params: DataParams, paths: Paths, seed: int) -> Prepared:
    def copy(to: Path) -> None:
        root = find_class_root(_kaggle_folder(params.kaggle_dataset), params.classes)
        chosen = thin(list_images(root, params.classes), params.per_class, seed)
        for image in tqdm(chosen, desc="copy", unit="file", delay=2, mininterval=1, leave=False):
            (to / image.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / image.path, to / image.path)

    return {"dataset": params.kaggle_dataset}, copy


def _cut(params: DataParams, paths: Paths, seed: int) -> Prepared:
    scale = {"mm_per_pixel": params.mm_per_pixel, "reference_mm": params.reference_mm}
    if None not in scale.values():
        raise RiceError("data.mm_per_pixel does not go with data.reference_mm; set one of them to null")
    root = find_class_root(_named_path(params, paths), params.classes)
    images = list_images(root, params.classes)
    lines = [f"{image.path} {sha256_file(root / image.path)}\n" for image in images]
    good = {image.path: root / image.path for image in images if image.status == OK}
    unusable = [photographs.Cutting(image.path, error=image.status) for image in images if image.status != OK]
    about = {**scale, "version": photographs.VERSION, "digest": sha256("".join(lines).encode()).hexdigest()}
    return about, lambda to: photographs.cut(good, to, **scale, unusable=unusable, workers=params.workers)


def _kaggle_folder(dataset: str) -> Path:
    """Download, or find in kagglehub's own cache; kagglehub resumes and checks. Public: no credentials."""
    import kagglehub

    try:
        return Path(kagglehub.dataset_download(dataset))
    except Exception as error:  # kagglehub lets through whatever its HTTP client, zip reader or disk raises
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:150]}"
        hint = "check the network, or download the zip by hand and set data.source to zip and data.path to it"
        raise RiceError(f"{dataset}: cannot be downloaded from Kaggle ({reason}); {hint}", status=1) from None


def _named_path(params: DataParams, paths: Paths) -> Path:
    """Give `data.path`, else `RICE_DATA`; relative to the project's root, whatever folder a notebook runs in."""
    if not (named := params.path or os.environ.get(PATH_VARIABLE)):
        how = f'make report PROFILE={paths.profile} SET="data.path=..."'
        raise RiceError(f"data.path: name the {params.source} of images ({how}), or set {PATH_VARIABLE}")
    return paths.root / Path(named).expanduser()


def _record(paths: Paths) -> dict[str, Any]:
    with suppress(FileNotFoundError, ValueError):
        return dict(read_json(paths.images / _RECORD))
    return {}
