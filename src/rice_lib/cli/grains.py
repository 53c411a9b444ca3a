"""`rice grains`: photographs of many grains in, images of single grains out, in the same folders.

rice grains trays/ --output grains/ --reference-mm 23.25
rice grains tray.jpg --output grains/ --mm-per-pixel 0.05
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rice_lib.cli.arguments import length, positive
from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_folder
from rice_lib.contract.decode import configure_pillow

UNKNOWN_SCALE = (
    "warning: no scale: one was chosen for the whole set, which is right only where all photographs were taken from "
    "one distance; lay a coin beside the grains and give --reference-mm"
)


def main(argv: Sequence[str] | None = None, prog: str = "rice grains") -> int:
    """Run the command; returns its exit status, 1 where some photographs could not be cut.

    Raises `RiceError` for no photographs, no grains, or an output folder that holds other files.
    """
    arguments = parser(prog).parse_args(argv)
    from rice_lib.data import photographs  # needs OpenCV

    configure_pillow()
    found, output = photographs.collect(arguments.input), arguments.output
    ours = not output.exists() or (output / photographs.ABOUT).is_file()
    if not ours and (not output.is_dir() or any(output.iterdir())):
        raise RiceError(f"{output}: will not be replaced, {prog} did not make it; give --output another name")
    if any(output.resolve() in file.resolve().parents for file in found.values()):
        raise RiceError(f"{output}: holds the photographs; give --output another name")
    scale = {name: getattr(arguments, name) for name in ("mm_per_pixel", "reference_mm")}
    if not any(scale.values()):
        print(UNKNOWN_SCALE, file=sys.stderr)
    with atomic_folder(output) as fresh:
        cuttings = photographs.cut(found, fresh, **scale, workers=arguments.workers)
    for own in cuttings:
        what = f"error: {own.error}" if own.error else "; ".join([f"{len(own.grains)} grains", *own.notes])
        print(f"{own.photograph}: {what}")
    failed = sum(own.error is not None for own in cuttings)
    total = sum(len(own.grains) for own in cuttings)
    print(f"{output}: {total:,} grains of {len(cuttings) - failed:,} photographs", file=sys.stderr)
    return 1 if failed else 0


def parser(prog: str = "rice grains") -> argparse.ArgumentParser:
    """Make the command line."""
    command = argparse.ArgumentParser(prog=prog, description="Cut photographs of many grains into single grains.")
    what = "a photograph, or a folder of <class>/photo.jpg"
    command.add_argument("input", type=Path, metavar="PHOTO|FOLDER", help=what)
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write <class>/ into")
    scale = command.add_mutually_exclusive_group()
    scale.add_argument("--mm-per-pixel", type=length, metavar="X", help="scale of the photographs")
    scale.add_argument("--reference-mm", type=length, metavar="D", help="diameter of a round object lying in each")
    command.add_argument("--workers", type=positive, metavar="N", help="processes (default: all cores)")
    return command
