"""Commands timed in turn (A B C, A B C, ...), so that a machine whose speed drifts is fair to each."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from rice_lib.common.errors import RiceError


@dataclass(frozen=True)
class Timing:
    """Wall seconds of one command's runs, in order, and the last line that it printed in each."""

    seconds: list[float]
    said: list[str]

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)


def python(*arguments: object) -> list[str]:
    """A command line for this interpreter."""
    return [sys.executable, *map(str, arguments)]


def in_turn(commands: Mapping[str, Sequence[str]], runs: int) -> dict[str, Timing]:
    """Run each command once uncounted, then all of them in turn `runs` times.

    Raises:
        RiceError: a command failed; the last line of what it said is told.
    """
    timings = {name: Timing([], []) for name in commands}
    with tqdm(total=(runs + 1) * len(commands), desc="timing", unit="run", leave=False) as progress:
        for run in range(runs + 1):
            for name, command in commands.items():
                progress.set_postfix_str(name)
                seconds, said = _run(name, command)
                if run:
                    timings[name].seconds.append(seconds)
                    timings[name].said.append(said)
                progress.update()
    return timings


def ratio(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """Minimum, median and maximum of `slow / fast`, run by run."""
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    return min(each), statistics.median(each), max(each)


def _run(name: str, command: Sequence[str]) -> tuple[float, str]:
    # rivals are not slowed down by looking for updates on a network that may not be there
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    seconds = time.perf_counter() - started
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RiceError(f"benchmark: {name} failed with status {done.returncode} ({reason})", status=1)
    return seconds, (done.stdout.strip().splitlines() or [""])[-1]
