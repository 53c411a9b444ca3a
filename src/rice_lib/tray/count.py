"""Counts and shares of the varieties on a tray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rice_lib.contract.prediction import UNKNOWN
from rice_lib.tray.tell import Told

Z = 1.959963984540054
"""97.5 % quantile of the normal distribution: intervals of 95 %."""


def wilson(k: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share of `k` in `n` (Wilson 1927, JASA 22:209); (0, 1) of none.

    As `rice_lib.cli.evaluate.wilson`, without scipy.
    """
    if n == 0:
        return 0.0, 1.0
    middle = (k + Z**2 / 2) / (n + Z**2)
    half = Z / (n + Z**2) * float(np.sqrt(k * (n - k) / n + Z**2 / 4))
    return (0.0 if k == 0 else middle - half), (1.0 if k == n else middle + half)


@dataclass(frozen=True)
class Share:
    """One variety on a tray; the share is of the grains that were told, with its 95 % interval."""

    variety: str
    count: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Count:
    """What lies on a tray, in numbers."""

    shares: tuple[Share, ...]
    """One a variety, in the model's order."""
    told: int
    """Grains that were told a variety: what the shares are of."""
    unknown: int
    """Things found that are no grain of a known variety."""
    cut: int
    """Things that the picture's border cuts: neither told nor counted."""


def count(told: Sequence[Told], labels: Sequence[str], cut: int) -> Count:
    """Count what was told; an interval is that of a random sample of grains, not of the model's errors."""
    counts = {name: sum(one.label == name for one in told) for name in (*labels, UNKNOWN)}
    known = len(told) - counts[UNKNOWN]
    shares = tuple(
        Share(name, counts[name], counts[name] / known if known else 0.0, *wilson(counts[name], known))
        for name in labels
    )
    return Count(shares, known, counts[UNKNOWN], cut)
