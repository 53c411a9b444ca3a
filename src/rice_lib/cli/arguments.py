"""Command-line arguments that several commands share, and checks of them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from rice_lib.common.errors import RiceError
from rice_lib.contract.image_file import SUFFIXES


def profile_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Make a parser that has `--profile`."""
    command = argparse.ArgumentParser(prog=prog, description=description)
    command.add_argument("--profile", default="smoke", help="a name under params/, or a YAML file (default: smoke)")
    return command


def positive(text: str) -> int:
    """Read an integer from 1 on; raises what argparse turns into a line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def length(text: str) -> float:
    """Read a finite number above 0; raises what argparse turns into a line."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be more than 0, not {text}")
    return value


def check_output(output: Path | None, inputs: Iterable[str | Path | None], suffixes: tuple[str, ...] = ()) -> None:
    """Check that a file to be written is no folder, no device, no image, and none of those that are read (`-`: stdin).

    Raises `RiceError` where it is one, or ends in none of `suffixes`, where there are any.
    """
    if output is None:
        return
    if output.is_dir():
        raise RiceError(f"{output}: cannot be written, it is a folder; name a file in it")
    if output.exists() and not output.is_file():
        raise RiceError(f"{output}: cannot be written (not an ordinary file); redirect stdout instead")
    if output.suffix.lower() in SUFFIXES:
        raise RiceError(f"{output}: will not be written over: it is named as an image; give --output another name")
    for name in inputs if output.is_file() else ():
        path = "/dev/stdin" if name == "-" else name
        if path and os.path.exists(path) and os.path.samefile(path, output):
            raise RiceError(f"{output}: will not be written over: it is read as {name}; give --output another name")
    if suffixes and output.suffix not in suffixes:
        raise RiceError(f"{output}: cannot be opened as a model later; let its name end in {' or '.join(suffixes)}")
