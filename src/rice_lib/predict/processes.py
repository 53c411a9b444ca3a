"""Bulk prediction on one machine: one process a core, each of which decodes and predicts its share of the files.

Threads of one process wait for each other: what is Python in decoding and in the features needs the interpreter's
lock. On two cores a photograph takes threads 1.9 ms of the clock, and processes 1.5.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from rice_lib.backends.predictor import Predictor
from rice_lib.common.errors import RiceError
from rice_lib.contract.record import Record
from rice_lib.predict.inputs import Source, walk_ahead
from rice_lib.predict.pipeline import predict_files as predict_files_here
from rice_lib.predict.pipeline import predict_in_turn

if TYPE_CHECKING:
    from concurrent.futures import Future

FEW = 1024
"""Inputs that this process predicts before it starts others, which takes them 0.35 s and 140 MB each: on two cores what
they win on 800 inputs."""

MOST = 16
"""Processes at once: beyond, memory and the one that writes the records count for more than another core."""

SHARE = 64
"""Inputs that a process is handed at once, and answers with their records. Writing these takes the process that hands
out 0.04 ms each where it wakes for 64, and 0.085 ms where it wakes for 16."""


def predict_files(
    predictor: Predictor, model: str | Path, sources: Iterator[Source], batch_size: int, reject: bool
) -> Iterator[Record]:
    """Classify files as `rice_lib.predict.pipeline.predict_files`, by `predictor.processes` once there are many.

    `model` is what the predictor was opened from, for the other processes. Raises `RiceError` where the engine failed,
    or a process was killed.
    """
    yield from predict_files_here(predictor, islice(sources, FEW), batch_size, reject)
    more = list(islice(sources, 1))
    if not more:
        return
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    count = min(predictor.processes, MOST)
    pool = ProcessPoolExecutor(count, get_context("spawn"))
    work = partial(_predict, os.fspath(model), batch_size, reject)
    pending: deque[Future[list[Record]]] = deque()
    try:
        with _deaf_to_interrupts():  # a process that is started meanwhile stays so: this one alone answers Ctrl-C
            pending.extend(pool.submit(work, []) for _ in range(count))
        for share in _shares(chain(more, sources), SHARE):
            pending.append(pool.submit(work, share))
            while len(pending) > (2 * count if share else 0):
                yield from pending.popleft().result()
    except BrokenProcessPool:
        raise RiceError("a process that predicts was killed (out of memory?); use fewer: --threads 1", 1) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _shares(sources: Iterable[Source], size: int) -> Iterator[list[Source]]:
    """Sources by `size`; where the next one is late, and at the end, those that are there, and an empty share."""
    share: list[Source] = []
    for source in chain(walk_ahead(sources, 32 * size), [None]):
        if source is not None:
            share.append(source)
        if source is None or len(share) == size:
            yield share
            share = []
        if source is None:
            yield share


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@cache
def _open(model: str) -> Predictor:
    """Open the model in a process that predicts."""
    from rice_lib.backends.open import open_predictor
    from rice_lib.contract.decode import configure_pillow

    threading.Thread(target=_end_with_parent, daemon=True).start()
    configure_pillow()
    return open_predictor(model, threads=1)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, even by `kill -9`."""
    from multiprocessing import parent_process

    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _predict(model: str, batch_size: int, reject: bool, sources: list[Source]) -> list[Record]:
    return list(predict_in_turn(_open(model), sources, batch_size, reject))
