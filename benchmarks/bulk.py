"""Time many photographs: the whole command, the model alone, and transformers.pipeline, in images per second."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from common import Timing, add_number, in_turn, parser, photographs, python, ratio, run, span

from models import add_weights, write_forms
from rice_lib.common.errors import run_command

PIPELINE = "transformers.pipeline"
DENSE = "ONNX Runtime alone, dense"
FOREGROUND = "ONNX Runtime alone, foreground"
COMMAND = "rice infer, foreground"

SHARE = 8
"""The two slow alternatives take every so many-th photograph, at least two batches."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns its exit status."""
    command = parser(__doc__, runs=3)
    add_weights(command)
    add_number(command, "--batch-size", 32, "images of one call")
    return run(command, argv, measure, describe)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time the commands in turn: images per second of each, and their ratios."""
    forms = write_forms(folder, arguments.checkpoint, arguments.patches)
    images, batch = photographs(arguments, folder), arguments.batch_size
    few = images[:: min(SHARE, max(1, len(images) // (2 * batch)))]
    alternatives = Path(__file__).with_name("alternatives.py")
    timings = in_turn(
        {
            PIPELINE: python(alternatives, "pipeline", forms.transformers, batch, *few),
            DENSE: python(alternatives, "onnxruntime", forms.dense, batch, *few),
            FOREGROUND: python(alternatives, "onnxruntime", forms.foreground, batch, *images),
            COMMAND: python(
                "-m", "rice_lib.infer", *images, "--model", forms.foreground, "--batch-size", batch,
                "--format", "jsonl",
            ),
        },
        arguments.runs,
    )  # fmt: skip
    rates = {
        PIPELINE: _rates(timings[PIPELINE], len(few)),
        DENSE: _rates(timings[DENSE], len(few)),
        FOREGROUND: _rates(timings[FOREGROUND], len(images)),
        # start-up, decoding and writing are part of the command
        COMMAND: [len(images) / seconds for seconds in timings[COMMAND].seconds],
    }
    return {
        "weights": forms.weights,
        "patches": forms.patches,
        "images": len(images),
        "alternatives_images": len(few),
        "batch": batch,
        "images_per_s": rates,
        "command_to_pipeline": ratio(rates[COMMAND], rates[PIPELINE]),
        "foreground_to_dense": ratio(rates[FOREGROUND], rates[DENSE]),
        "command_to_model_alone": ratio(rates[COMMAND], rates[FOREGROUND]),
    }


def _rates(timing: Timing, images: int) -> list[float]:
    return [images / float(line) for line in timing.last_lines]


def describe(found: dict[str, Any]) -> str:
    """Write the measurement as tables for people."""
    rates = [(name, f"{statistics.median(each):.0f}") for name, each in found["images_per_s"].items()]
    ratios = [
        (words, span(found[name]))
        for name, words in (
            ("command_to_pipeline", "the whole command / transformers.pipeline"),
            ("foreground_to_dense", "the foreground model / the dense model"),
            ("command_to_model_alone", "the whole command / the model alone"),
        )
    ]
    first = pd.DataFrame(rates, columns=[f"batch of {found['batch']}", "images/s, median"])
    second = pd.DataFrame(ratios, columns=["ratio of images/s", "median (from to)"])
    return f"{first.to_string(index=False)}\n\n{second.to_string(index=False)}"


if __name__ == "__main__":
    run_command(main)
