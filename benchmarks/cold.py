"""One photograph from cold, whole process, and where the start-up goes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from models import Forms
from rice_lib.backends.open import default_model
from rice_lib.export.timing import in_turn, python, ratio

PIPELINE = "transformers.pipeline"
OURS = "rice infer, the same weights"
SHIPPED = "rice infer, the model that ships"

_IMPORT = re.compile(r"import time:\s*(\d+) \|\s*\d+ \| \s*(\S+)")


def measure(forms: Forms, image: Path, runs: int) -> dict[str, Any]:
    """Wall time of telling one image, in turn, and microseconds of each package's imports.

    Args:
        forms: the weights to tell it with.
        image: the photograph.
        runs: counted runs of each command.
    """
    timings = in_turn(
        {
            PIPELINE: python("-m", "rivals", "pipeline", forms.transformers, 1, image),
            OURS: python("-m", "rice_lib.infer", image, "--model", forms.foreground),
            SHIPPED: python("-m", "rice_lib.infer", image),
            "python -c pass": python("-c", "pass"),
        },
        runs,
    )
    slow = timings[PIPELINE].seconds
    return {
        "seconds": {name: timing.seconds for name, timing in timings.items()},
        "ratio_to_pipeline": {
            name: ratio(slow, timing.seconds) for name, timing in timings.items() if name in (OURS, SHIPPED)
        },
        "imports_us": imports(image, default_model()),
    }


def imports(image: Path, model: Path) -> dict[str, int]:
    """Microseconds that the imports of one prediction cost, by top-level package, dearest first."""
    command = python("-X", "importtime", "-m", "rice_lib.infer", image, "--model", model)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    spent: dict[str, int] = {}
    for own, module in _IMPORT.findall(done.stderr):
        package = module.split(".")[0]
        spent[package] = spent.get(package, 0) + int(own)
    return dict(sorted(spent.items(), key=lambda pair: -pair[1]))


def lines(found: dict[str, Any]) -> list[str]:
    """The measurement as a table for people."""
    told = [f"{'one photograph, whole process':<36}{'seconds, median':>16}{'times faster':>24}"]
    for name, seconds in found["seconds"].items():
        middle = sorted(seconds)[len(seconds) // 2]
        shown = found["ratio_to_pipeline"].get(name)
        compared = f"{shown[1]:.1f} ({shown[0]:.1f} to {shown[2]:.1f})" if shown else ""
        told.append(f"{name:<36}{middle:>16.3f}{compared:>24}")
    spent = found["imports_us"]
    dear = [f"{package} {us / 1000:.0f}" for package, us in spent.items() if us >= 2000]
    told += ["", f"imports of one prediction, ms: {sum(spent.values()) / 1000:.0f} in all; {', '.join(dear)}"]
    return told
