"""Peak memory of the command over many files: it must not grow with their number."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rice_lib.common.errors import RiceError
from rice_lib.export.timing import python

SHARES = (0.2, 1.0)
"""Parts of all files that the runs tell."""

_LAUNCHER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss)
sys.stdout.flush()
os._exit(os.waitstatus_to_exitcode(status))
"""
"""A small process between: a child's peak begins with what its parent holds when it is started, and we hold much."""


def measure(images: Sequence[Path], folder: Path, count: int) -> dict[str, Any]:
    """Peak resident memory of `rice infer FOLDER`, with the model that ships, at a fifth of `count` files and at all.

    Args:
        images: photographs to make the files of; each copy has bytes of its own behind the image's end, so that none
            is taken for told before.
        folder: where to write the files.
        count: how many.
    """
    peaks = {}
    for share in SHARES:
        files = max(1, round(share * count))
        place = folder / str(files)
        _write_copies(images, place, files)
        peaks[files] = _peak(place, folder / f"{files}.jsonl")
    return {"peak_mib": peaks}


def _write_copies(images: Sequence[Path], folder: Path, count: int) -> None:
    contents = [image.read_bytes() for image in images]
    folder.mkdir()
    for number in tqdm(range(count), desc="writing files", unit="file", delay=2, leave=False):
        content = contents[number % len(contents)]
        (folder / f"{number:07}.jpg").write_bytes(content + number.to_bytes(4, "big"))


def _peak(folder: Path, output: Path) -> float:
    """Peak resident MiB of the command over a folder."""
    command = python("-c", _LAUNCHER, *python("-m", "rice_lib.infer", folder, "--output", output))
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # shows its own progress
    if done.returncode:
        raise RiceError(f"benchmark: rice infer {folder} failed with status {done.returncode}", status=1)
    return int(done.stdout.split()[-1]) / 1024  # Linux counts in KiB


def lines(found: dict[str, Any]) -> list[str]:
    """The measurement as a table for people."""
    told = [f"{'files':>10}{'peak memory, MiB':>20}"]
    return told + [f"{files:>10,}{peak:>20.0f}" for files, peak in found["peak_mib"].items()]
