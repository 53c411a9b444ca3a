"""Run the stages of a profile one after the other, as `make report` does, and print the CPU seconds of each.

Seconds of a core, of a stage's children too: other work on the machine hardly changes them, unlike the clock. The
outputs are those of the profile, in data/, models/ and reports/.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from common import call, parser, python, run

from rice_lib.common.errors import run_command
from rice_lib.common.paths import NOTEBOOKS, STUDIES, find_root


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns its exit status."""
    command = parser(__doc__, runs=1)
    command.add_argument("--profile", default="smoke", metavar="P", help="a file in params/ (%(default)s)")
    command.add_argument("--only", nargs="+", metavar="STAGE", help="these alone, by the names of their notebooks")
    return run(command, argv, measure, describe)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the stages `runs` times; seconds of a core and of the clock, of each run."""
    found: dict[str, Any] = {}
    for name in arguments.only or (*NOTEBOOKS, *STUDIES, "report"):
        verb = ["report"] if name == "report" else ["stage", name]
        command = python("-m", "rice_lib", *verb, "--profile", arguments.profile)
        runs = [call(name, command, quoted=40, cwd=find_root()) for _ in range(arguments.runs)]
        found[name] = [(core, clock) for _, core, clock in runs]
    return {"profile": arguments.profile, "core_and_wall_s": found}


def describe(found: dict[str, Any]) -> str:
    """Write the measurement as a table for people."""
    medians = {name: pd.DataFrame(pairs).median() for name, pairs in found["core_and_wall_s"].items()}
    rows = [(name, f"{core:.1f}", f"{wall:.1f}") for name, (core, wall) in medians.items()]
    rows.append(("all", *(f"{sum(pair[i] for pair in medians.values()):.1f}" for i in (0, 1))))
    return pd.DataFrame(rows, columns=["stage", "seconds of a core", "seconds"]).to_string(index=False)


if __name__ == "__main__":
    run_command(main)
