"""The options of `rice infer`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from rice_lib.cli.arguments import check_output, length, positive
from rice_lib.common.errors import RiceError
from rice_lib.predict.pipeline import BATCH_SIZE
from rice_lib.predict.writers import FORMATS, format_of

ENGINES = ("local", "ray")


def check(arguments: argparse.Namespace) -> None:
    """Check for options that do not go together; raises `RiceError`."""
    if (arguments.mm_per_pixel or arguments.reference_mm) and not arguments.grains:
        raise RiceError("--mm-per-pixel and --reference-mm give the scale of a tray: it needs --grains")
    check_output(arguments.output, [*arguments.inputs, arguments.model])
    if arguments.resume and (arguments.output is None or arguments.explain):
        raise RiceError("--resume continues an interrupted --output FILE: name the file, and leave --explain out")
    if format_of(arguments.format, arguments.output) == "parquet":
        if arguments.output is None:
            raise RiceError("parquet is written to a file: name it with --output")
        if arguments.grains:
            raise RiceError("--grains writes no parquet: take csv or jsonl")


def parser(prog: str) -> argparse.ArgumentParser:
    """Make the command line; its help fits one screen of 80 x 30."""
    command = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [options] IMAGE|FOLDER|- ...",
        description="Classify rice varieties in photographs of single grains on a dark background.",
        epilog=_EPILOG.format(prog=prog),
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=20, width=80),
        add_help=False,
    )
    add = command.add_argument_group("input and output").add_argument
    add("inputs", nargs="+", metavar="IMAGE|FOLDER|-", help="files, folders searched for images, - a list on stdin")
    add("--null", "-0", action="store_true", help="the list on stdin is separated by NUL, not newline")
    add("--output", type=Path, metavar="FILE", help="write there instead of stdout")
    add("--resume", action="store_true", help="continue an interrupted --output")
    add("--format", choices=FORMATS, metavar="F", help=f"{', '.join(FORMATS)} (default: as FILE ends)")
    add("--top-k", type=positive, metavar="K", help="give the K likeliest (default: all; table: 1)")
    group = command.add_argument_group("what to predict, and by what")
    add, one_of, scale = group.add_argument, *(group.add_mutually_exclusive_group().add_argument for _ in range(2))
    add("--no-reject", dest="reject", action="store_false", help="name a variety whatever the image shows")
    add("--model", metavar="M", help="checkpoint, .onnx, .plan, triton://host:port/name")
    add("--batch-size", type=positive, default=BATCH_SIZE, metavar="N", help="images a model call (%(default)s)")
    add("--threads", type=positive, metavar="N", help="CPU threads of a model (default: all cores; ray: 1)")
    what = "local, or ray: a cluster's machines (RAY_ADDRESS)"
    one_of("--engine", choices=ENGINES, default="local", metavar="E", help=what)
    one_of("--grains", action="store_true", help="inputs are trays: find, classify and count their grains")
    scale("--mm-per-pixel", type=length, metavar="X", help="a tray's scale,")
    scale("--reference-mm", type=length, metavar="D", help="or the diameter of a round object lying in it")
    add("--broken-below", type=_share, default=0.75, metavar="S", help="grains below S of the mean length are broken")
    one_of("--explain", type=Path, metavar="DIR", help="save there what in each image decides")
    add("-h", "--help", action="help", help="this page")
    return command


_EPILOG = """\
examples:
  {prog} photos/ --output out.csv --resume
  {prog} photos/ --format jsonl | jq -r .label
  find . -name '*.jpg' -print0 | {prog} - -0 --top-k 2
Status: 0 done, 1 some inputs failed (the others are not lost), 2 usage."""


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, not {text}")
    return value
