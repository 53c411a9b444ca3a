"""`rice export onnx|tensorrt`: a checkpoint to ONNX, and ONNX to a TensorRT plan.

rice export onnx models/local/vit/random --output model.onnx --images data/samples
rice export tensorrt model.onnx --output model.plan --batches 1 8 128 --images data/samples
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rice_lib.backends.plan import FLAVOURS, BatchProfile, manifest_file
from rice_lib.cli.arguments import check_output
from rice_lib.common.errors import RiceError
from rice_lib.contract.decode import configure_pillow
from rice_lib.export.tensorrt import build_engine
from rice_lib.predict.inputs import decode_all, expand

PARITY_TOLERANCE = {"float32": 1e-3, "float16": 5e-2}
"""Largest accepted difference of a logit from torch, by precision: the defaults of the parameters' `export` section."""


def main(argv: Sequence[str] | None = None, prog: str = "rice export") -> int:
    """Run the command; returns its exit status."""
    arguments = parser(prog).parse_args(argv)
    check_output(arguments.output, (vars(arguments).get("onnx"),), arguments.suffixes)
    arguments.act(arguments)
    return 0


def _onnx(arguments: argparse.Namespace) -> None:
    from rice_lib.backends.checkpoint import read_decision
    from rice_lib.backends.vit import load_pixel_classifier, read_provenance
    from rice_lib.export.onnx import check_parity, export

    classifier = load_pixel_classifier(arguments.checkpoint)
    pixels = _pixels(arguments.images)
    export(
        classifier,
        arguments.output,
        precision=arguments.precision,
        labels=classifier.labels,
        metadata=read_provenance(arguments.checkpoint),
        opset=arguments.opset,
        decision=read_decision(arguments.checkpoint, classifier.labels),
    )
    print(f"{arguments.output}: {arguments.precision}, {arguments.output.stat().st_size / 1e6:.1f} MB")
    if pixels is None:
        return
    try:
        found = check_parity(classifier, arguments.output, pixels, PARITY_TOLERANCE[arguments.precision])
    except RiceError:
        arguments.output.resolve().unlink()  # nobody must find a file that disagrees with its checkpoint
        raise
    for parity in found:
        print(f"batch {parity.batch}: within {parity.max_abs:.1e} of torch, {parity.labels_changed} labels changed")


def _tensorrt(arguments: argparse.Namespace) -> None:
    profile, pixels = BatchProfile(*arguments.batches), _pixels(arguments.images)
    print(f"{arguments.output}: building takes up to some minutes", file=sys.stderr)
    manifest = build_engine(arguments.onnx, arguments.output, profile, flavour=arguments.flavour, pixels=pixels)
    where = manifest.gpu.name if manifest.gpu else "any GPU that this TensorRT knows"
    print(f"{arguments.output}: {manifest.precision}, {manifest.flavour} {manifest.tensorrt}, for {where}")
    print(f"{manifest_file(arguments.output)}: its manifest")
    print(manifest.agreement or "not checked on images (--images FOLDER does)")


def _pixels(images: list[Path] | None) -> np.ndarray | None:
    if not images:
        return None
    configure_pillow()
    items = [item for item in decode_all(expand(map(str, images)), batch_size=32) if item is not None]
    for item in items:
        if item.error:
            raise RiceError(f"{item.path}: {item.error}")
    return np.stack([item.pixels for item in items])  # type: ignore[misc]  # none is None


def parser(prog: str = "rice export") -> argparse.ArgumentParser:
    """Make the command line."""
    command = argparse.ArgumentParser(prog=prog, description="Make a model ready to be served.")
    commands = command.add_subparsers(required=True, metavar="onnx|tensorrt")

    onnx = commands.add_parser("onnx", help="a checkpoint directory to one .onnx file")
    onnx.add_argument("checkpoint", type=Path, help="directory with config.json and model.safetensors")
    onnx.add_argument("--precision", choices=("float32", "float16"), default="float32")
    onnx.add_argument("--opset", type=int, default=20, help="ONNX operator set (default: %(default)s)")
    onnx.set_defaults(act=_onnx, suffixes=(".onnx",))

    tensorrt = commands.add_parser("tensorrt", help="an .onnx file to a plan for the GPU at hand")
    tensorrt.add_argument("onnx", type=Path, help="made by the onnx command; its precision is the plan's")
    tensorrt.add_argument("--batches", type=int, nargs=3, default=(1, 8, 32), metavar=("MIN", "OPT", "MAX"))
    tensorrt.add_argument("--flavour", choices=FLAVOURS, default="tensorrt", help="TensorRT, or TensorRT for RTX")
    tensorrt.set_defaults(act=_tensorrt, suffixes=(".plan", ".engine"))

    for verb, check in ((onnx, "check parity with torch on these"), (tensorrt, "accept the plan only if it agrees")):
        verb.add_argument("--output", type=Path, required=True, metavar="FILE")
        verb.add_argument("--images", type=Path, nargs="+", metavar="IMAGE|FOLDER", help=check)
    return command
