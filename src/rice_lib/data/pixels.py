"""Bringing back the pixel cache: DVC stores the images, but not the 11 GB that the full set is decoded to."""

from __future__ import annotations

from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path, write_json
from rice_lib.common.run import Run
from rice_lib.data import sources
from rice_lib.data.decoding import decode_all
from rice_lib.data.loading import open_cache
from rice_lib.data.manifest import manifest_hash, read


def restore(run: Run) -> bool:
    """Decode the manifest's images again where the pixel cache is missing, damaged or another manifest's.

    Returns:
        Whether there was anything to do.

    Raises:
        RiceError: no manifest, or an image that is not the one in the manifest any more.
    """
    paths, params = run.paths, run.params
    table = read(paths)
    try:
        open_cache(paths)
    except RiceError:
        pass
    else:
        return False
    root = sources.locate(params.data, paths)
    with atomic_path(paths.cache / "pixels.npy") as cache:
        decoded = decode_all([root / path for path in table["path"]], cache, params.data.workers)
        for path, expected, file in zip(table["path"], table["sha256"], decoded, strict=True):
            if file.sha256 != expected:
                raise RiceError(f"{root / path}: not the image in {paths.manifest.name}; run notebook 01_eda again")
    write_json(paths.cache / "cache.json", {"manifest": manifest_hash(paths), "images": len(table)})
    return True
