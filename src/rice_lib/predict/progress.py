"""How far a run of predictions is: count, rate, time left and failures, on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

AFTER_S = 2.0
"""A run shorter than this shows nothing."""


class Progress:
    """A bar on a terminal, a line now and then elsewhere; begins when a run has taken a while."""

    def __init__(self, show: bool, counts: Iterable[int] | None, done: int = 0) -> None:
        """Begin to count.

        Args:
            show: whether to say anything at all.
            counts: numbers of inputs that add up to the total, or None where nobody can know it; taken in a thread of
                its own, and only when there is a bar to show it.
            done: inputs that an interrupted run told before.
        """
        self._show = show
        self._counts = counts
        self._initial = self._count = done
        self._begun = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._wait = AFTER_S if self._terminal else 5 * AFTER_S
        self._total: int | None = None
        self._closed = threading.Event()
        self._bar: tqdm | None = None

    def step(self, failed: int) -> None:
        """One more is told; `failed` of all are errors."""
        self._count += 1
        if self._bar is not None:
            self._bar.total = self._total
            if failed:
                self._bar.set_postfix_str(f"{failed} failed", refresh=False)
            self._bar.update()
        elif self._show and time.monotonic() - self._begun > self._wait:
            self._open()

    def close(self) -> None:
        """Show the last state."""
        self._closed.set()
        if self._bar is not None:
            self._bar.close()

    def _open(self) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            desc="told",
            unit=" images",
            initial=self._initial,
            file=sys.stderr,
            mininterval=0.2 if self._terminal else 30.0,
            dynamic_ncols=True,
        )
        # the bar counts from the run's beginning, not from its own
        self._bar.n, self._bar.start_t = self._count, self._bar.start_t - (time.monotonic() - self._begun)
        self._bar.refresh()
        if self._counts is not None:
            threading.Thread(target=self._add_up, name="count", daemon=True).start()

    def _add_up(self) -> None:
        total = 0
        for number in self._counts or ():
            if self._closed.is_set():
                return
            total += number
        self._total = total
