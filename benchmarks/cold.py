"""Time one photograph from cold, whole process, beside transformers.pipeline, and the imports of the command."""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from common import in_turn, parser, photographs, python, ratio, run, span

from models import add_weights, write_forms
from rice_lib.backends.open import default_model
from rice_lib.common.errors import run_command

PIPELINE = "transformers.pipeline"
SAME_WEIGHTS = "rice infer, the same weights"
SHIPPED = "rice infer, the model that ships"

_IMPORT = re.compile(r"import time:\s*(\d+) \|\s*\d+ \| \s*(\S+)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns its exit status."""
    command = parser(__doc__, runs=7)
    add_weights(command)
    return run(command, argv, measure, describe)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time the commands in turn: wall seconds, and microseconds of each package's imports."""
    forms = write_forms(folder, arguments.checkpoint, arguments.patches)
    image = photographs(arguments, folder)[0]
    alternatives = Path(__file__).with_name("alternatives.py")
    timings = in_turn(
        {
            PIPELINE: python(alternatives, "pipeline", forms.transformers, 1, image),
            SAME_WEIGHTS: python("-m", "rice_lib.infer", image, "--model", forms.foreground),
            SHIPPED: python("-m", "rice_lib.infer", image),
            "python -c pass": python("-c", "pass"),
        },
        arguments.runs,
    )
    slow = timings[PIPELINE].seconds
    return {
        "weights": forms.weights,
        "patches": forms.patches,
        "seconds": {name: timing.seconds for name, timing in timings.items()},
        "ratio_to_pipeline": {name: ratio(slow, timings[name].seconds) for name in (SAME_WEIGHTS, SHIPPED)},
        "imports_us": imports(image, default_model()),
    }


def imports(image: Path, model: Path) -> dict[str, int]:
    """Sum the microseconds that the imports of one prediction take, by top-level package, largest first."""
    command = python("-X", "importtime", "-m", "rice_lib.infer", image, "--model", model)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    spent: dict[str, int] = {}
    for own, module in _IMPORT.findall(done.stderr):
        package = module.split(".")[0]
        spent[package] = spent.get(package, 0) + int(own)
    return dict(sorted(spent.items(), key=lambda pair: -pair[1]))


def describe(found: dict[str, Any]) -> str:
    """Write the measurement as a table for people."""
    ratios = found["ratio_to_pipeline"]
    rows = [
        (name, f"{statistics.median(seconds):.3f}", span(ratios[name], 1) if name in ratios else "")
        for name, seconds in found["seconds"].items()
    ]
    table = pd.DataFrame(rows, columns=["one photograph, whole process", "seconds, median", "times faster"])
    spent = found["imports_us"]
    slow = [f"{package} {us / 1000:.0f}" for package, us in spent.items() if us >= 2000]
    imported = f"imports of one prediction, ms: {sum(spent.values()) / 1000:.0f} in all; {', '.join(slow)}"
    return f"{table.to_string(index=False)}\n\n{imported}"


if __name__ == "__main__":
    run_command(main)
