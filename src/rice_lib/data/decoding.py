"""Read and decode each image file once, in a pool of processes; pixels go straight into the memory-mapped cache.

Imports little, because every worker process imports it again.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from rice_lib.common.errors import RiceError
from rice_lib.common.machine import cores
from rice_lib.contract.decode import IMAGE_SIZE, BadImageError, configure_pillow, open_image, to_square
from rice_lib.contract.features import BACKGROUND_MAX
from rice_lib.contract.image_file import read_file
from rice_lib.data.duplicates import HASH_LENGTH, perceptual_hash, thumbnail
from rice_lib.data.listing import OK

CHUNK = 64
POOL_FROM = 3000  # fewer images are done sooner than worker processes start

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class DecodedFile:
    """What one file holds, as columns of the manifest, and its perceptual hash (NaN where it is no image)."""

    bytes: int
    sha256: str
    width: int
    height: int
    status: str
    hash: np.ndarray


def decode_all(files: Sequence[Path], cache: Path, workers: int | None) -> list[DecodedFile]:
    """Decode `files` into the new file `cache`, a `.npy` of uint8 `[n, 224, 224, 3]` (zeros where there is no image).

    Raises `RiceError` where the disk has no room, or a worker process was killed.
    """
    _reserve(cache, len(files))
    return over_images(partial(_decode, cache=cache), list(enumerate(files)), workers, "decode")


def over_images(
    function: Callable[[T], R],
    items: Sequence[T],
    workers: int | None,
    title: str,
    *,
    unit: str = "image",
    chunk: int = CHUNK,
    pool_from: int = POOL_FROM,
) -> list[R]:
    """Apply a function that can be pickled to an item an image, in processes where there are many; shows progress."""
    workers = min(workers or cores(), math.ceil(len(items) / chunk)) if len(items) >= pool_from else 1
    with ExitStack() as stack:
        run: Callable[..., Iterable[R]] = map
        if workers > 1:
            # spawn: a notebook's process has threads, and forking a process with threads can hang
            context = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(workers, context, _set_up_worker))
            run = partial(pool.map, chunksize=chunk)
        bar = partial(tqdm, total=len(items), desc=title, unit=unit, delay=2, mininterval=1, leave=False)
        try:
            return list(bar(run(function, items)))
        except BrokenProcessPool:
            message = f"{title}: a worker process was killed (out of memory?); try fewer with data.workers"
            raise RiceError(message, status=1) from None


def _set_up_worker() -> None:
    cv2.setNumThreads(1)
    configure_pillow()


def _decode(row_and_path: tuple[int, Path], cache: Path) -> DecodedFile:
    """Read one file and put its pixels into its row of the cache."""
    row, path = row_and_path
    data = None
    try:
        data = read_file(path)
        image = open_image(data)
    except BadImageError as error:
        status = f"{'empty' if data == b'' else 'corrupt'}: {error}"
        digest = "" if data is None else hashlib.sha256(data).hexdigest()
        return DecodedFile(len(data or b""), digest, 0, 0, status, np.full(HASH_LENGTH, np.nan, np.float32))
    pixels = np.asarray(to_square(image))
    np.load(cache, mmap_mode="r+")[row] = pixels
    status = OK if pixels.max() > BACKGROUND_MAX else f"empty: no pixel brighter than {BACKGROUND_MAX} of 255"
    digest, found = hashlib.sha256(data).hexdigest(), perceptual_hash(thumbnail(pixels))
    return DecodedFile(len(data), digest, image.width, image.height, status, found)


def _reserve(cache: Path, images: int) -> None:
    """Make the cache file if the disk has room: a memory map that meets a full disk later would kill the process."""
    shape = (images, IMAGE_SIZE, IMAGE_SIZE, 3)
    if shutil.disk_usage(cache.parent).free < math.prod(shape):
        need = f"no room for {math.prod(shape) / 1e9:.1f} GB of decoded pixels"
        raise RiceError(f"{cache.parent}: {need}; free some, or set data.per_class", status=1)
    np.lib.format.open_memmap(cache, mode="w+", dtype=np.uint8, shape=shape)
