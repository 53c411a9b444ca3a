"""When a request is sent again, how long in all, and what a person is told meanwhile.

Telling an image changes nothing on the server, so whatever leaves a request without an answer may be met by asking
again; what the server refuses stays refused.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from enum import Enum
from itertools import count
from typing import Any, TypeVar

from rice_lib.common.errors import RiceError

T = TypeVar("T")

PATIENCE_S = 60.0
"""How long a server may be away: a restart takes seconds, on a busy machine with a large model half a minute."""

FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 2.0
"""Delays before the next try double from the one to the other."""

NOTICE_S = 1.0
"""A shorter absence is not spoken of: a full queue is over in less."""


class Kind(Enum):
    """What a fault says of the next try."""

    AWAY = "no answer: the next try may have one"
    MISSING = "the server has no such model or version, now"
    REFUSED = "answered: no"


class ServerError(RiceError):
    """A request without the answer that was asked for; exit status 1."""

    def __init__(self, where: str, why: str, kind: Kind) -> None:
        super().__init__(f"{where}: {why}", 1)
        self.why = why
        self.kind = kind


class VersionGoneError(Exception):
    """The version that was asked is no longer served; `config` is the model's configuration now."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__("the server went over to another version")
        self.config = config


class Retry:
    """Asks until there is an answer or patience ends. Shared by the threads that ask one server."""

    def __init__(
        self,
        where: str,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        """Begin with a server that has never answered: until it has, a fault is raised at once.

        Args:
            where: the server and its model, for what a person is told.
            patience_s: seconds from a request's first fault to its last try.
            clock: seconds of a clock that only goes forward.
            pause: waits for seconds, and says whether to give up; None waits until `stop`.
        """
        self._where, self._patience, self._clock = where, patience_s, clock
        self._stopped = threading.Event()
        self._pause = pause or self._stopped.wait
        self._lock = threading.Lock()
        self._answered = self._noticed = False

    def stop(self) -> None:
        """Have every thread that waits give up."""
        self._stopped.set()

    def __call__(self, act: Callable[[], T]) -> T:
        """What `act` returns.

        Raises:
            ServerError: what `act` raised, where another try is of no use or patience has ended.
        """
        began: float | None = None
        for tries in count():
            try:
                answer = act()
            except ServerError as error:
                now = self._clock()
                began = now if began is None else began
                if not self._answered or error.kind is Kind.REFUSED:
                    raise
                if now - began >= self._patience:
                    raise ServerError(self._where, f"{error.why} (tried for {now - began:.0f} s)", error.kind) from None
                if now - began >= NOTICE_S:
                    self._notice(error.why)
                if self._pause(min(_delay(tries), self._patience - (now - began))):
                    raise
            else:
                self._back()
                return answer
        raise AssertionError("counting has no end")

    def _notice(self, why: str) -> None:
        with self._lock:
            if not self._noticed:
                self._noticed = True
                print(f"{self._where}: {why}; waiting up to {self._patience:g} s for it", file=sys.stderr)

    def _back(self) -> None:
        with self._lock:
            self._answered = True
            if self._noticed:
                self._noticed = False
                print(f"{self._where}: answers again", file=sys.stderr)


def _delay(tries: int) -> float:
    """Seconds before the next try; random, so that clients that lost a server together do not come back together."""
    return min(FIRST_DELAY_S * 2 ** min(tries, 16), LONGEST_DELAY_S) * random.uniform(0.5, 1)
