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
    """Read how many cores' worth of time the process's control groups grant, of either version; inf: no limit."""
    quota = math.inf
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, own = line.split(":", 2)
            if not controllers:
                top, names = root, ["cpu.max"]
            elif "cpu" in controllers.split(","):
                top, names = root / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
            else:
                continue
            place = top / own.lstrip("/")
            for group in (place, *place.parents):
                with suppress(OSError, ValueError):  # no such file; "max"
                    most, period = (int(number) for name in names for number in (group / name).read_text().split())
                    quota = min(quota, most / period) if most > 0 else quota
    return quota
