"""`rice export onnx|tensorrt`: a checkpoint to ONNX, and ONNX to a TensorRT plan.

rice export onnx models/local/vit/random --output model.onnx --images data/samples
rice export onnx models/local/vit/random --output model.onnx --precision int8 --images photographs
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

LEAST_LABELLED = 20
"""Images of `--precision int8`: fewer calibrate nothing."""


def main(argv: Sequence[str] | None = None, prog: str = "rice export") -> int:
    """Run the command; returns its exit status."""
    arguments = parser(prog).parse_args(argv)
    check_output(arguments.output, (vars(arguments).get("onnx"),), arguments.suffixes)
    arguments.act(arguments)
    return 0


def _onnx(arguments: argparse.Namespace) -> None:
    from rice_lib.backends.checkpoint import read_decision
    from rice_lib.backends.vit import load_pixel_classifier, read_provenance
    from rice_lib.export.onnx import check_parity, export, quantise

    classifier = load_pixel_classifier(arguments.checkpoint)
    pixels, folders = _decoded(arguments.images)
    known = folders and set(folders) <= set(classifier.labels)
    truth = np.array([classifier.labels.index(name) for name in folders]) if known else None
    output, precision = arguments.output, arguments.precision
    if precision == "int8" and (truth is None or len(truth) < LEAST_LABELLED):
        wanted = f"{LEAST_LABELLED} images at least, in a folder a variety"
        raise RiceError(f"--precision int8: wants --images, {wanted}: one half to calibrate on, the other to check it")
    export(
        classifier,
        output,
        precision="float32" if precision == "int8" else precision,
        labels=classifier.labels,
        metadata=read_provenance(arguments.checkpoint),
        opset=arguments.opset,
        decision=read_decision(arguments.checkpoint, classifier.labels),
    )
    try:
        if precision != "int8":
            found = [] if pixels is None else check_parity(classifier, output, pixels, PARITY_TOLERANCE[precision])
            lines = [
                f"batch {p.batch}: within {p.max_abs:.1e} of torch, {p.labels_changed} labels changed" for p in found
            ]
        else:
            assert pixels is not None  # checked above
            assert truth is not None
            quantise(output, output, pixels[::2])
            pixels, truth, lines = pixels[1::2], truth[1::2], []
        if precision != "float32" and truth is not None and pixels is not None:
            lines.append(_check_form(arguments.checkpoint, output, pixels, truth))
    except RiceError:
        output.resolve().unlink()  # nobody must find a file that disagrees with its checkpoint
        raise
    print(f"{output}: {precision}, {output.stat().st_size / 1e6:.1f} MB", *lines, sep="\n")


def _check_form(checkpoint: Path, file: Path, pixels: np.ndarray, truth: np.ndarray) -> str:
    """Compare a form with its checkpoint on labelled images; raises `RiceError` where it is not offered."""
    from rice_lib.backends.open import open_predictor
    from rice_lib.export.forms import compare

    with open_predictor(checkpoint) as reference, open_predictor(file) as form:
        kept = compare(form.logits(pixels), reference.logits(pixels), truth, pixels, reference.decision)
    if not kept.offered:
        raise RiceError(f"{file}: not offered: {kept}; use float32", 1)
    return str(kept)


def _tensorrt(arguments: argparse.Namespace) -> None:
    profile, (pixels, _) = BatchProfile(*arguments.batches), _decoded(arguments.images)
    print(f"{arguments.output}: building takes up to some minutes", file=sys.stderr)
    manifest = build_engine(arguments.onnx, arguments.output, profile, flavour=arguments.flavour, pixels=pixels)
    where = manifest.gpu.name if manifest.gpu else "any GPU that this TensorRT knows"
    print(f"{arguments.output}: {manifest.precision}, {manifest.flavour} {manifest.tensorrt}, for {where}")
    print(f"{manifest_file(arguments.output)}: its manifest")
    print(manifest.agreement or "not checked on images (--images FOLDER does)")


def _decoded(images: list[Path] | None) -> tuple[np.ndarray | None, list[str]]:
    """Decode all images, and name the folder of each; raises `RiceError` where one cannot be read."""
    configure_pillow()
    items = [item for item in decode_all(expand(map(str, images or ())), batch_size=32) if item is not None]
    for item in items:
        if item.error:
            raise RiceError(f"{item.path}: {item.error}")
    pixels = np.stack([item.pixels for item in items]) if items else None  # type: ignore[misc]  # none is None
    return pixels, [Path(item.path).parent.name for item in items]


def parser(prog: str = "rice export") -> argparse.ArgumentParser:
    """Make the command line."""
    command = argparse.ArgumentParser(prog=prog, description="Make a model ready to be served.")
    commands = command.add_subparsers(required=True, metavar="onnx|tensorrt")

    onnx = commands.add_parser("onnx", help="a checkpoint directory to one .onnx file")
    onnx.add_argument("checkpoint", type=Path, help="directory with config.json and model.safetensors")
    onnx.add_argument("--precision", choices=("float32", "float16", "int8"), default="float32", help="default: float32")
    onnx.add_argument("--opset", type=int, default=20, help="ONNX operator set (default: %(default)s)")
    onnx.set_defaults(act=_onnx, suffixes=(".onnx",))

    tensorrt = commands.add_parser("tensorrt", help="an .onnx file to a plan for the GPU at hand")
    tensorrt.add_argument("onnx", type=Path, help="made by the onnx command; its precision is the plan's")
    names = ("MIN", "OPT", "MAX")
    tensorrt.add_argument("--batches", type=int, nargs=3, default=(1, 8, 32), metavar=names, help="images a call")
    tensorrt.add_argument("--flavour", choices=FLAVOURS, default="tensorrt", help="TensorRT, or TensorRT for RTX")
    tensorrt.set_defaults(act=_tensorrt, suffixes=(".plan", ".engine"))

    for verb, check in ((onnx, "check it on these; int8 needs them"), (tensorrt, "accept the plan only if it agrees")):
        verb.add_argument("--output", type=Path, required=True, metavar="FILE")
        verb.add_argument("--images", type=Path, nargs="+", metavar="IMAGE|FOLDER", help=check)
    return command
