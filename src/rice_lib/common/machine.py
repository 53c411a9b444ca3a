"""The machine we run on."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path


def cores() -> int:
    """Count the cores that this process may use: its CPU affinity, and the quota of its container or service."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _quota())))


def _quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float:
    """Read how many cores' worth of time the process's control groups grant (cgroup v2, `cpu.max`); inf: no limit."""
    quota = math.inf
    with suppress(OSError):
        own = next((line[4:] for line in membership.read_text().splitlines() if line.startswith("0::/")), "")
        for group in (root / own, *(root / own).parents):
            with suppress(OSError, ValueError):  # no such file; "max"
                most, period = (group / "cpu.max").read_text().split()
                quota = min(quota, int(most) / int(period))
    return quota
