"""Measure the peak memory of the command over few and many files: it must not grow with their number.

It is that of the largest of its processes.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from common import add_number, parser, photographs, python, run
from tqdm import tqdm

from rice_lib.common.errors import RiceError, run_command

SHARES = (0.2, 1.0)
"""Parts of all files that the runs classify."""

_LAUNCHER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss)
sys.stdout.flush()
os._exit(os.waitstatus_to_exitcode(status))
"""
"""A small process between: a child's peak begins with what its parent holds when it is started, and we hold much."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns its exit status."""
    command = parser(__doc__)
    add_number(command, "--copies", 100_000, "files that are made of the photographs")
    return run(command, argv, measure, describe)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure peak resident memory of `rice infer FOLDER`, with the model that ships; few files, then all."""
    images, peaks = photographs(arguments, folder), {}
    for share in SHARES:
        files = max(1, round(share * arguments.copies))
        place = folder / str(files)
        _write_copies(images, place, files)
        peaks[files] = _peak(place, folder / f"{files}.jsonl")
    return {"peak_mib": peaks}


def _write_copies(images: Sequence[Path], folder: Path, count: int) -> None:
    contents = [image.read_bytes() for image in images]
    folder.mkdir()
    for number in tqdm(range(count), desc="writing files", unit="file", delay=2, leave=False):
        # bytes of its own behind the image's end: no two files are the same
        (folder / f"{number:07}.jpg").write_bytes(contents[number % len(contents)] + number.to_bytes(4, "big"))


def _peak(folder: Path, output: Path) -> float:
    command = python("-c", _LAUNCHER, *python("-m", "rice_lib.infer", folder, "--output", output))
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # shows its own progress
    if done.returncode:
        raise RiceError(f"benchmark: rice infer {folder} failed with status {done.returncode}", status=1)
    return int(done.stdout.split()[-1]) / 1024  # Linux counts in KiB


def describe(found: dict[str, Any]) -> str:
    """Write the measurement as a table for people."""
    rows = [(f"{files:,}", f"{peak:.0f}") for files, peak in found["peak_mib"].items()]
    return pd.DataFrame(rows, columns=["files", "peak memory of a process, MiB"]).to_string(index=False)


if __name__ == "__main__":
    run_command(main)
