"""The one pass over the image files: each is read and decoded once, by a pool of processes.

What a file holds (bytes, sha256, size, perceptual hash) comes back to the parent; its pixels go straight into
the memory-mapped cache. Imports little, because every worker process imports it anew.
"""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from rice_lib.common.errors import RiceError
from rice_lib.common.machine import cores
from rice_lib.contract.decode import IMAGE_SIZE, BadImageError, configure_pillow, open_image, to_square
from rice_lib.data.duplicates import HASH_LENGTH, perceptual_hash, thumbnail
from rice_lib.data.listing import OK

DARKEST_GRAIN = 40
"""A grain has pixels brighter than this; the ground of the public set never has."""

_CHUNK = 64
POOL_FROM = 3000
"""Fewer images than this are decoded sooner than worker processes start."""


@dataclass(frozen=True)
class DecodedFile:
    """What one file holds; `status` is `ok` or the reason why it is no image. Sizes in bytes and pixels."""

    bytes: int
    sha256: str
    width: int
    height: int
    status: str
    hash: np.ndarray


def decode_all(files: Sequence[Path], cache: Path, workers: int | None) -> list[DecodedFile]:
    """Decode `files` into the new file `cache`, a `.npy` of uint8 `[n, 224, 224, 3]` (zeros where there is no
    image).

    Raises:
        RiceError: no room on the disk, or a worker process was killed.
    """
    _reserve(cache, len(files))
    starts = range(0, len(files), _CHUNK)
    chunks = [(start, [str(file) for file in files[start : start + _CHUNK]]) for start in starts]
    workers = min(workers or cores(), len(chunks))
    found: list[DecodedFile] = []
    with tqdm(total=len(files), desc="decode", unit="image", delay=2, mininterval=1, leave=False) as progress:
        for results in _run(chunks, cache, workers if len(files) >= POOL_FROM else 1):
            found += results
            progress.update(len(results))
    return found


def _run(chunks: list[tuple[int, list[str]]], cache: Path, workers: int) -> Iterator[list[DecodedFile]]:
    if workers == 1:
        pixels = np.load(cache, mmap_mode="r+")
        for start, files in chunks:
            yield [_decode_one(file, pixels[start + k]) for k, file in enumerate(files)]
        pixels.flush()
        return
    # spawn: a notebook's process has threads, and forking a process with threads can hang
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, context, _open_cache, (str(cache),)) as pool:
            yield from pool.map(_decode_chunk, chunks)
    except BrokenProcessPool:
        message = "a decoding process was killed (out of memory?); try fewer with data.workers"
        raise RiceError(message, status=1) from None


_pixels: np.ndarray


def _open_cache(cache: str) -> None:
    global _pixels  # noqa: PLW0603  # the pool's way of handing a worker what all its chunks share
    cv2.setNumThreads(1)
    configure_pillow()
    _pixels = np.load(cache, mmap_mode="r+")


def _decode_chunk(chunk: tuple[int, list[str]]) -> list[DecodedFile]:
    start, files = chunk
    return [_decode_one(file, _pixels[start + k]) for k, file in enumerate(files)]


def _decode_one(file: str, target: np.ndarray) -> DecodedFile:
    """Read one file and put its pixels into `target` (uint8 `[224, 224, 3]`)."""
    no_hash = np.full(HASH_LENGTH, np.nan, dtype=np.float32)
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        return DecodedFile(0, "", 0, 0, f"corrupt: cannot be read ({error.strerror})", no_hash)
    digest = hashlib.sha256(data).hexdigest()
    try:
        image = open_image(data)
    except BadImageError as error:
        kind = "corrupt" if data else "empty"
        return DecodedFile(len(data), digest, 0, 0, f"{kind}: {error}", no_hash)
    pixels = np.asarray(to_square(image, IMAGE_SIZE))
    target[:] = pixels
    status = OK if pixels.max() > DARKEST_GRAIN else f"empty: no pixel brighter than {DARKEST_GRAIN} of 255"
    return DecodedFile(len(data), digest, image.width, image.height, status, perceptual_hash(thumbnail(pixels)))


def _reserve(cache: Path, images: int) -> None:
    """Make the cache file at its full size; a memory map that meets a full disk later would kill the
    process."""
    shape = (images, IMAGE_SIZE, IMAGE_SIZE, 3)
    np.lib.format.open_memmap(cache, mode="w+", dtype=np.uint8, shape=shape).flush()
    try:
        with cache.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, cache.stat().st_size)
    except AttributeError:  # not on macOS
        return
    except OSError as error:
        if error.errno != errno.ENOSPC:
            return
        gigabytes = images * IMAGE_SIZE * IMAGE_SIZE * 3 / 1e9
        message = f"{cache.parent}: no room for {gigabytes:.1f} GB of decoded pixels; free some, or set data.per_class"
        raise RiceError(message, status=1) from None
