"""Wilson's score interval, for every share that the project prints."""

from __future__ import annotations

import math

Z = 1.959963984540054
"""97.5 % quantile of the normal distribution: intervals of 95 %."""


def wilson(k: int, n: int) -> tuple[float, float]:
    """Compute Wilson's 95 % score interval of a share of `k` in `n` (Wilson 1927, JASA 22:209); (0, 1) of none."""
    if n == 0:
        return 0.0, 1.0
    middle = (k + Z**2 / 2) / (n + Z**2)
    half = Z / (n + Z**2) * math.sqrt(k * (n - k) / n + Z**2 / 4)
    return (0.0 if k == 0 else middle - half), (1.0 if k == n else middle + half)
