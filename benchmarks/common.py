"""What the benchmark scripts share: arguments, photographs, commands timed in turn, ratios, output."""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rice_lib.cli.arguments import positive
from rice_lib.common.errors import RiceError
from rice_lib.common.files import write_json
from rice_lib.common.paths import find_root
from rice_lib.common.tracking import commit, hardware, versions
from rice_lib.data.synthetic import write_images
from rice_lib.predict.inputs import expand

GENERATED_PER_VARIETY = 200

Ratio = tuple[float, float, float]
"""Minimum, median and maximum over the runs."""


def parser(description: str | None, *, files: int = 2000, runs: int | None = None) -> argparse.ArgumentParser:
    """Make a script's command line, with the options that all have."""
    command = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--images", type=Path, metavar="FOLDER", help="photographs (default: generated grains)")
    command.add_argument("--output", type=Path, metavar="FILE.json", help="write the figures here too")
    add_number(command, "--files", files, "photographs taken of the folder, evenly spaced")
    if runs is not None:
        add_number(command, "--runs", runs, "runs that are counted")
    return command


def add_number(command: argparse.ArgumentParser, name: str, default: int, words: str) -> None:
    """Add an option that takes a positive number."""
    command.add_argument(name, type=positive, default=default, metavar="N", help=f"{words} (default: {default:,})")


def run(
    command: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    measure: Callable[[argparse.Namespace, Path], dict[str, Any]],
    describe: Callable[[dict[str, Any]], str],
) -> int:
    """Measure in a temporary folder, print what was found, and write it to `--output` with its provenance.

    Returns:
        The exit status: 1 where `measure` found `faults`.
    """
    arguments = command.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="rice-benchmark-") as folder:
        found = measure(arguments, Path(folder))
    print(describe(found))
    if arguments.output:
        provenance = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(find_root()),
            "hardware": hardware(),
            "versions": versions(),
        }
        name = sys.modules[measure.__module__].__file__
        write_json(arguments.output, {"benchmark": Path(str(name)).stem, **found, "provenance": provenance})
    return 1 if found.get("faults") else 0


def photographs(arguments: argparse.Namespace, folder: Path) -> list[Path]:
    """List the photographs of `--images`, or generate some below `folder`; raises `RiceError` where there are none."""
    if arguments.images is None:
        write_images(folder / "images", GENERATED_PER_VARIETY, seed=83)
        found = sorted((folder / "images").rglob("*.jpg"))
    else:
        found = [Path(name) for name in expand([str(arguments.images)]) if isinstance(name, str)]
    if not found:
        raise RiceError(f"{arguments.images}: holds no images")
    return found[:: max(1, len(found) // arguments.files)][: arguments.files]


@dataclass(frozen=True)
class Timing:
    """Wall seconds of one command's runs, in order, and the last line that it printed in each."""

    seconds: list[float]
    last_lines: list[str]

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)


def python(*arguments: object) -> list[str]:
    """Give a command line for this interpreter."""
    return [sys.executable, *map(str, arguments)]


def in_turn(commands: Mapping[str, Sequence[str]], runs: int) -> dict[str, Timing]:
    """Run each command once uncounted, then all of them in turn (A B C, A B C, ...) `runs` times.

    In turn, so that a machine whose speed drifts is fair to each. Raises `RiceError` where a command fails.
    """
    timings = {name: Timing([], []) for name in commands}
    with tqdm(total=(runs + 1) * len(commands), desc="timing", unit="run", leave=False) as progress:
        for number in range(runs + 1):
            for name, command in commands.items():
                progress.set_postfix_str(name)
                seconds, line = _time(name, command)
                if number:
                    timings[name].seconds.append(seconds)
                    timings[name].last_lines.append(line)
                progress.update()
    return timings


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Ratio:
    """Compute minimum, median and maximum of `slow / fast`, run by run."""
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    return min(each), statistics.median(each), max(each)


def span(ratio: Ratio, digits: int = 2) -> str:
    """Write a ratio as `5.12 (5.04 to 5.20)`."""
    low, middle, high = (f"{value:.{digits}f}" for value in ratio)
    return f"{middle} ({low} to {high})"


def call(
    name: str, command: Sequence[str], *, quoted: int = 1, **options: Any
) -> tuple[subprocess.CompletedProcess[str], float, float]:
    """Run a command to its end: what it printed, and seconds of a core (its children's too) and of the clock.

    Raises `RiceError` with the last `quoted` lines of its stderr where it fails; `options` are `subprocess.run`'s.
    """
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begun
    if done.returncode:
        reason = "\n".join((done.stderr.strip().splitlines() or ["no message"])[-quoted:])
        raise RiceError(f"benchmark: {name} failed with status {done.returncode} ({reason})", status=1)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds


def _time(name: str, command: Sequence[str]) -> tuple[float, str]:
    # alternatives must not be slowed down by looking for updates on a network that may not be there
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done, _, seconds = call(name, command, env=environment)
    return seconds, (done.stdout.strip().splitlines() or [""])[-1]
