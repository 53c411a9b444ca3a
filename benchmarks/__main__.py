"""The command `python -m rice_lib.benchmark`; see the package's first lines."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rice_lib.cli.arguments import positive
from rice_lib.common.errors import RiceError, run_command
from rice_lib.common.files import write_json

PROG = "python -m rice_lib.benchmark"
GENERATED_PER_VARIETY = 200

FILES = 2000
"""Photographs taken of a folder, where nothing else is said."""

Measure = Callable[[argparse.Namespace, Path], dict[str, Any]]


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """The command; returns its exit status."""
    arguments = parser(prog).parse_args(argv)
    from rice_lib.common.paths import find_root
    from rice_lib.common.tracking import commit, hardware, versions

    with tempfile.TemporaryDirectory(prefix="rice-benchmark-") as folder:
        found = arguments.measure(arguments, Path(folder))
    print("\n".join(found.pop("lines")))
    if arguments.output:
        made = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(find_root()),
            "hardware": hardware(),
            "versions": versions(),
        }
        write_json(arguments.output, {"benchmark": arguments.verb, **found, "provenance": made})
    return 1 if found.get("wrong") else 0


def _cold(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from rice_lib.benchmark import cold

    from models import write_forms

    forms = write_forms(folder, arguments.checkpoint, arguments.patches)
    found = cold.measure(forms, _images(arguments, folder)[0], arguments.runs)
    return {"weights": forms.what, "patches": forms.patches, **found, "lines": cold.lines(found)}


def _bulk(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from rice_lib.benchmark import bulk

    from models import write_forms

    forms = write_forms(folder, arguments.checkpoint, arguments.patches)
    found = bulk.measure(forms, _images(arguments, folder), arguments.batch_size, arguments.runs)
    return {"weights": forms.what, "patches": forms.patches, **found, "lines": bulk.lines(found)}


def _training(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from rice_lib.benchmark import training

    images = _images(arguments, folder)
    found = training.measure(images, arguments.patches, arguments.batch_size, arguments.runs)
    return {**found, "lines": training.lines(found)}


def _memory(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from rice_lib.benchmark import memory

    found = memory.measure(_images(arguments, folder), folder, arguments.count)
    return {**found, "lines": memory.lines(found)}


def _triton(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from rice_lib.benchmark import triton

    from rice_lib.backends.open import default_model

    grid = triton.Grid(arguments.concurrency, arguments.batch, arguments.seconds, arguments.runs)
    found = triton.measure(arguments.model or default_model(), _images(arguments, folder), folder, grid)
    return {**found, "lines": triton.lines(found)}


def _hostile(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from rice_lib.benchmark import hostile

    from rice_lib.backends.open import default_model

    model, images = arguments.model or default_model(), _images(arguments, folder)
    found = hostile.measure(model, images, folder, arguments.requests, arguments.concurrency)
    return {**found, "lines": hostile.lines(found)}


def _images(arguments: argparse.Namespace, folder: Path) -> list[Path]:
    """The images to tell: those named, else generated grains."""
    if arguments.images is None:
        from rice_lib.data.synthetic import write_images

        write_images(folder / "images", GENERATED_PER_VARIETY, seed=83)
        return sorted((folder / "images").rglob("*.jpg"))
    from rice_lib.predict.inputs import expand

    found = [Path(name) for name in expand([str(arguments.images)]) if isinstance(name, str)]
    if not found:
        raise RiceError(f"{arguments.images}: holds no images")
    step = max(1, len(found) // arguments.count)
    return found[::step][: arguments.count]


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog=prog, description="Speed as ratios to a named alternative, in one run.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, measure: Measure, words: str) -> argparse.ArgumentParser:
        command = verbs.add_parser(name, help=words, description=words)
        command.set_defaults(measure=measure, count=FILES)
        command.add_argument("--images", type=Path, metavar="FOLDER", help="photographs (default: generated grains)")
        command.add_argument("--output", type=Path, metavar="FILE.json", help="write the figures here too")
        return command

    cold = verb("cold", _cold, "one photograph, whole process, beside transformers.pipeline")
    bulk = verb("bulk", _bulk, "many photographs: command, model alone, transformers.pipeline")
    training = verb("training", _training, "training steps of a ViT-Ti: dense, foreground")
    memory = verb("memory", _memory, "peak memory of the command over few and many files")
    triton = verb("triton", _triton, "a server under load beside the model called directly and rice infer")
    hostile = verb("hostile", _hostile, "a server among malformed requests: right answers, refusals, memory")
    for command in (cold, bulk, training):
        command.add_argument("--patches", type=positive, default=48, metavar="K", help="foreground (default: 48)")
    for command, runs in ((cold, 7), (bulk, 3), (training, 5), (triton, 3)):
        command.add_argument("--runs", type=positive, default=runs, metavar="N", help="counted (default: %(default)s)")
    for command in (cold, bulk):
        command.add_argument("--checkpoint", type=Path, metavar="DIR", help="weights (default: a random ViT-Ti)")
    for command in (bulk, training):
        command.add_argument("--batch-size", type=positive, default=32, metavar="N", help="default: 32")
    bulk.add_argument("--count", type=positive, default=FILES, metavar="N", help="take N images (default: 2000)")
    memory.add_argument("--count", type=positive, default=100_000, metavar="N", help="files (default: 100000)")
    for command in (triton, hostile):
        command.add_argument("--model", type=Path, metavar="M.onnx", help="default: the model that ships")
    for option, default in (("--concurrency", [1, 4, 16, 64]), ("--batch", [1, 8, 32])):
        words = "default: " + " ".join(map(str, default))
        triton.add_argument(option, nargs="+", type=positive, default=default, metavar="N", help=words)
    triton.add_argument("--seconds", type=positive, default=4, metavar="S", help="of each point (default: 4)")
    hostile.add_argument("--requests", type=positive, default=10_000, metavar="N", help="default: 10000")
    hostile.add_argument("--concurrency", type=positive, default=64, metavar="N", help="clients (default: 64)")
    return top


if __name__ == "__main__":
    run_command(main)
